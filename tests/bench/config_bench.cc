// ResolveConfig against an echo of the same bytes, on one server in one run, over loopback: the
// time of a call (p50, p99), processor time, and throughput with 64 clients.  Prints a table;
// asserts no time.  README.md says how it is read.
//
//   config_bench [--calls N] [--seconds S] [--clients C]
#include <grpcpp/grpcpp.h>
#include <grpcpp/impl/codegen/client_unary_call.h>
#include <grpcpp/impl/codegen/method_handler.h>
#include <grpcpp/impl/codegen/rpc_service_method.h>
#include <spdlog/spdlog.h>
#include <time.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "server/rpc/server.h"
#include "tests/bench/print_command.h"
#include "tests/bench/processor_seconds.h"
#include "zerocast/v1/config.grpc.pb.h"

namespace zerocast {
namespace {

constexpr char kEcho[] = "/zerocast.bench.EchoService/Echo";
constexpr size_t kConfigBytes = 4096;

[[noreturn]] void Die(const std::string& what) {
  std::fprintf(stderr, "config_bench: %s\n", what.c_str());
  std::exit(1);
}

// Sends a request back: what a call costs in which nothing is done.
class EchoService final : public grpc::Service {
 public:
  EchoService() {
    AddMethod(new grpc::internal::RpcServiceMethod(
        kEcho, grpc::internal::RpcMethod::NORMAL_RPC,
        new grpc::internal::RpcMethodHandler<EchoService, v1::ResolveConfigRequest,
                                             v1::ResolveConfigRequest>(
            [](EchoService*, grpc::ServerContext*, const v1::ResolveConfigRequest* request,
               v1::ResolveConfigRequest* response) {
              *response = *request;
              return grpc::Status::OK;
            },
            this)));
  }
};

// A config as a team's repository has it: most sections of DeepSpeed's, some of them "auto".
std::string Config() {
  std::string text = R"({
  "train_batch_size": "auto", "train_micro_batch_size_per_gpu": "auto",
  "gradient_accumulation_steps": "auto", "gradient_clipping": "auto", "steps_per_print": 100,
  "wall_clock_breakdown": false, "bf16": {"enabled": "auto"},
  "fp16": {"enabled": "auto", "loss_scale": 0, "loss_scale_window": 1000,
           "initial_scale_power": 16, "hysteresis": 2, "min_loss_scale": 1},
  "optimizer": {"type": "AdamW", "params": {"lr": "auto", "betas": "auto", "eps": "auto",
                                            "weight_decay": "auto"}},
  "scheduler": {"type": "WarmupDecayLR", "params": {"warmup_min_lr": "auto",
                "warmup_max_lr": "auto", "warmup_num_steps": "auto", "total_num_steps": "auto"}},
  "zero_optimization": {"stage": 3, "overlap_comm": true, "contiguous_gradients": true,
    "sub_group_size": 1e9, "reduce_bucket_size": "auto", "stage3_prefetch_bucket_size": "auto",
    "stage3_param_persistence_threshold": "auto", "stage3_max_live_parameters": 1e9,
    "stage3_max_reuse_distance": 1e9, "stage3_gather_16bit_weights_on_model_save": true,
    "offload_optimizer": {"device": "cpu", "pin_memory": true},
    "offload_param": {"device": "cpu", "pin_memory": true}},
  "activation_checkpointing": {"partition_activations": true, "cpu_checkpointing": true,
    "contiguous_memory_optimization": false, "number_checkpoints": 4},
  "aio": {"block_size": 1048576, "queue_depth": 8, "single_submit": false, "overlap_events": true},
  "flops_profiler": {"enabled": false, "profile_step": 1, "module_depth": -1, "top_modules": 1},
  "comms_logger": {"enabled": true, "verbose": false, "prof_all": true, "debug": false,
                   "prof_ops": [)";
  for (int i = 0; text.size() + 40 < kConfigBytes; ++i) {
    absl::StrAppend(&text, i == 0 ? "" : ", ", "\"all_reduce_", i, "\"");
  }
  absl::StrAppend(&text, "]}}");
  text.resize(kConfigBytes, ' ');
  return text;
}

v1::ResolveConfigRequest Request(bool all) {
  v1::ResolveConfigRequest request;
  request.set_config_json(Config());
  request.set_training_arguments_json(
      R"({"world_size": 64, "per_device_train_batch_size": 4, "gradient_accumulation_steps": 2,
          "learning_rate": 2e-05, "max_grad_norm": 1.0, "weight_decay": 0.1, "warmup_steps": 100,
          "bf16": true})");
  request.set_model_config_json(R"({"model_type": "llama", "hidden_size": 4096})");
  request.set_num_training_steps(10000);
  request.set_lint(all);
  request.set_estimate_memory(all);
  if (all) request.mutable_model_size()->set_num_parameters(7'000'000'000);
  return request;
}

double Now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

// A client with a connection of its own.
class Caller {
 public:
  explicit Caller(const std::string& address) {
    grpc::ChannelArguments arguments;
    arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
    channel_ = grpc::CreateCustomChannel(address, grpc::InsecureChannelCredentials(), arguments);
    stub_ = v1::ConfigService::NewStub(channel_);
    echo_ = std::make_unique<grpc::internal::RpcMethod>(
        kEcho, grpc::internal::RpcMethod::NORMAL_RPC, channel_);
  }

  void Echo(const v1::ResolveConfigRequest& request) {
    grpc::ClientContext context;
    SetDeadline(&context);
    v1::ResolveConfigRequest response;
    Check(
        grpc::internal::BlockingUnaryCall<v1::ResolveConfigRequest, v1::ResolveConfigRequest,
                                          grpc::protobuf::MessageLite, grpc::protobuf::MessageLite>(
            channel_.get(), *echo_, &context, request, &response));
  }

  void Resolve(const v1::ResolveConfigRequest& request) {
    grpc::ClientContext context;
    SetDeadline(&context);
    v1::ResolveConfigResponse response;
    Check(stub_->ResolveConfig(&context, request, &response));
  }

 private:
  static void SetDeadline(grpc::ClientContext* context) {
    context->set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(30));
  }
  static void Check(const grpc::Status& status) {
    if (!status.ok()) Die(status.error_message());
  }

  std::shared_ptr<grpc::Channel> channel_;
  std::unique_ptr<v1::ConfigService::Stub> stub_;
  std::unique_ptr<grpc::internal::RpcMethod> echo_;
};

struct Kind {
  const char* name;
  std::function<void(Caller*)> call;
  std::vector<double> seconds = {};
  double processor = 0;
  double calls_per_second = 0;
};

double Percentile(std::vector<double> values, double share) {
  std::sort(values.begin(), values.end());
  return values[static_cast<size_t>(share * static_cast<double>(values.size() - 1))];
}

// The kinds in turn, so that whatever else the machine does meets all of them.
void MeasureTimes(const std::string& address, int calls, std::vector<Kind>* kinds) {
  Caller caller(address);
  const int warm_up = calls / 10;
  for (int i = -warm_up; i < calls; ++i) {
    for (Kind& kind : *kinds) {
      const double processor = ProcessorSeconds(), begin = Now();
      kind.call(&caller);
      if (i < 0) continue;
      kind.seconds.push_back(Now() - begin);
      kind.processor += ProcessorSeconds() - processor;
    }
  }
}

double Throughput(const std::string& address, int clients, double seconds, const Kind& kind) {
  std::atomic<int64_t> done{0};
  std::atomic<bool> counting{false}, stop{false};
  std::vector<std::thread> threads;
  for (int i = 0; i < clients; ++i) {
    threads.emplace_back([&] {
      Caller caller(address);
      while (!stop) {
        kind.call(&caller);
        if (counting) ++done;
      }
    });
  }
  std::this_thread::sleep_for(std::chrono::milliseconds(500));  // until all are connected
  counting = true;
  const double begin = Now();
  std::this_thread::sleep_for(std::chrono::duration<double>(seconds));
  const double result = static_cast<double>(done) / (Now() - begin);
  stop = true;
  for (std::thread& thread : threads) thread.join();
  return result;
}

double Flag(int argc, char** argv, const char* name, double otherwise) {
  for (int i = 1; i + 1 < argc; ++i) {
    if (std::strcmp(argv[i], name) == 0) return std::atof(argv[i + 1]);
  }
  return otherwise;
}

void Run(int argc, char** argv) {
  const int calls = static_cast<int>(Flag(argc, argv, "--calls", 3000));
  const double seconds = Flag(argc, argv, "--seconds", 2);
  const int clients = static_cast<int>(Flag(argc, argv, "--clients", 64));
  if (calls < 1 || clients < 1 || seconds <= 0) Die("flags must be positive");

  EchoService echo;
  Server::Options options;
  options.more_services = {&echo};
  auto server = Server::Start(std::move(options));
  if (!server.ok()) Die(server.status().ToString());
  const std::string address = (*server)->address();
  const v1::ResolveConfigRequest plain = Request(false), all = Request(true);
  std::vector<Kind> kinds = {
      {"echo", [&](Caller* caller) { caller->Echo(plain); }},
      {"resolve", [&](Caller* caller) { caller->Resolve(plain); }},
      {"resolve, lint, estimate", [&](Caller* caller) { caller->Resolve(all); }},
  };
  MeasureTimes(address, calls, &kinds);
  constexpr int kRounds = 3;
  for (int round = 0; round < kRounds; ++round) {
    for (Kind& kind : kinds) {
      // The best of them: the one that least else disturbed.
      kind.calls_per_second =
          std::max(kind.calls_per_second, Throughput(address, clients, seconds, kind));
    }
  }

  PrintCommand(argc, argv);
  std::printf("config of %zu bytes, request of %zu; %d calls of each kind in turn\n", kConfigBytes,
              plain.ByteSizeLong(), calls);
  std::printf("%-24s %9s %9s %9s %12s\n", "", "p50 us", "p99 us", "cpu us",
              absl::StrCat("/s, ", clients, " cl.").c_str());
  const double echo_p50 = Percentile(kinds[0].seconds, 0.5);
  for (const Kind& kind : kinds) {
    std::printf("%-24s %9.0f %9.0f %9.0f %12.0f\n", kind.name, Percentile(kind.seconds, 0.5) * 1e6,
                Percentile(kind.seconds, 0.99) * 1e6, kind.processor / calls * 1e6,
                kind.calls_per_second);
  }
  std::printf("resolve / echo, p50: %.2f (goal: at most 2.0)\n",
              Percentile(kinds[1].seconds, 0.5) / echo_p50);
  std::printf("resolve, lint, estimate - echo, p50: %.3f ms (goal: at most 0.3)\n",
              (Percentile(kinds[2].seconds, 0.5) - echo_p50) * 1e3);
  std::printf("resolve / echo, throughput: %.2f (goal: at least 0.5)\n",
              kinds[1].calls_per_second / kinds[0].calls_per_second);
}

}  // namespace
}  // namespace zerocast

int main(int argc, char** argv) {
  spdlog::set_level(spdlog::level::warn);
  zerocast::Run(argc, argv);
  return 0;
}
