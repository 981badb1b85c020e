#ifndef ZEROCAST_TESTS_SERVER_RPC_HEALTH_CLIENT_H_
#define ZEROCAST_TESTS_SERVER_RPC_HEALTH_CLIENT_H_

#include <grpcpp/generic/generic_stub.h>
#include <grpcpp/grpcpp.h>

#include <chrono>
#include <future>
#include <string>

namespace zerocast {

enum class Health { kServing, kNotServing, kNotFound, kUnreachable };

// One call of a method without generated code; `response` may be null.
inline grpc::Status CallByName(const std::string& address, const std::string& method,
                               const std::string& request_bytes, grpc::ByteBuffer* response) {
  const auto channel = grpc::CreateChannel(address, grpc::InsecureChannelCredentials());
  grpc::GenericStub stub(channel);
  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(10));
  grpc::Slice slice(request_bytes);
  grpc::ByteBuffer request(&slice, 1);
  std::promise<grpc::Status> done;
  stub.UnaryCall(&context, method, grpc::StubOptions(), &request, response,
                 [&done](grpc::Status status) { done.set_value(std::move(status)); });
  return done.get_future().get();
}

// grpc.health.v1.Health/Check, written by hand: no package carries the generated client.
// HealthCheckRequest { string service = 1; }  HealthCheckResponse { enum status = 1; } SERVING
// is 1.
inline Health CheckHealth(const std::string& address, const std::string& service) {
  std::string bytes;
  if (!service.empty()) {
    bytes = std::string("\x0a") + static_cast<char>(service.size()) + service;
  }
  grpc::ByteBuffer response;
  const grpc::Status status = CallByName(address, "/grpc.health.v1.Health/Check", bytes, &response);
  if (status.error_code() == grpc::StatusCode::NOT_FOUND) return Health::kNotFound;
  if (!status.ok()) return Health::kUnreachable;
  grpc::Slice answer;
  if (!response.TrySingleSlice(&answer).ok() || answer.size() != 2) return Health::kNotServing;
  return answer.begin()[1] == 1 ? Health::kServing : Health::kNotServing;
}

}  // namespace zerocast

#endif  // ZEROCAST_TESTS_SERVER_RPC_HEALTH_CLIENT_H_
