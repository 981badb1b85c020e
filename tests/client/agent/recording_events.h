#ifndef ZEROCAST_TESTS_CLIENT_AGENT_RECORDING_EVENTS_H_
#define ZEROCAST_TESTS_CLIENT_AGENT_RECORDING_EVENTS_H_

#include <gtest/gtest.h>

#include <functional>
#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "client/agent/messages.h"
#include "kernels/base/mutex.h"

namespace zerocast {

// Keeps what an agent says, and lets a test wait for it.
class RecordingEvents : public AgentEvents {
 public:
  void ManifestDone(const LoadKey&, absl::StatusOr<InspectedCheckpoint> checkpoint) override {
    Record([&] { manifests_.push_back(std::move(checkpoint)); });
  }
  void PlanDone(const LoadKey&, absl::StatusOr<PreparedPlan> plan) override {
    Record([&] { plans_.push_back(std::move(plan)); });
  }
  void RendezvousPut(const LoadKey& key, const std::string& name,
                     const std::string& value) override {
    if (relay) relay(key, name, value);
  }
  void Progress(const LoadKey&, const NodeProgress& progress) override {
    Record([&] { stages_.push_back(progress.stage); });
  }
  void LoadDone(const LoadKey&, const NodeResult& result) override {
    Record([&] { results_.push_back(result); });
  }
  void HandedOver(const LoadKey&, const HandOver& hand_over) override {
    Record([&] { hand_overs_.push_back({hand_over.rank, hand_over.mode}); });
  }

  void ShardsFreed(const LoadKey&, const std::vector<int32_t>& ranks,
                   const absl::Status& why) override {
    Record([&] { freed_.push_back({ranks, why}); });
  }

  void Donated(const LoadKey&, absl::StatusOr<DonationStep> step) override {
    Record([&] { donations_.push_back(step); });
  }
  void FolderLooked(const std::string& look, absl::StatusOr<FoundZeroFolder> folder) override {
    Record([&] { looks_.push_back({look, std::move(folder)}); });
  }
  void InventoryChanged() override {
    Record([&] { ++num_inventories_; });
  }

  // The next of each kind; a failure of the test, and a status, when none comes.
  absl::StatusOr<InspectedCheckpoint> NextManifest() {
    return Next(&manifests_).value_or(absl::UnknownError("no manifest"));
  }
  std::pair<std::string, absl::StatusOr<FoundZeroFolder>> NextLook() {
    return Next(&looks_).value_or(
        std::pair<std::string, absl::StatusOr<FoundZeroFolder>>("", absl::UnknownError("no look")));
  }
  absl::StatusOr<PreparedPlan> NextPlan() {
    return Next(&plans_).value_or(absl::UnknownError("no plan"));
  }
  NodeResult NextResult() {
    NodeResult none;
    none.status = absl::UnknownError("no result");
    return Next(&results_).value_or(none);
  }
  std::optional<std::pair<int32_t, AttachMode>> NextHandOver() { return Next(&hand_overs_); }
  std::optional<std::pair<std::vector<int32_t>, absl::Status>> NextFreed() { return Next(&freed_); }
  absl::StatusOr<DonationStep> NextDonation() {
    return Next(&donations_).value_or(absl::UnknownError("no donation"));
  }
  int NumInventories() {
    MutexLock lock(&mutex_);
    return num_inventories_;
  }
  size_t NumFreed() {
    MutexLock lock(&mutex_);
    return freed_.size();
  }
  size_t NumResults() {
    MutexLock lock(&mutex_);
    return results_.size();
  }

  std::function<void(const LoadKey&, const std::string&, const std::string&)> relay;

 private:
  template <typename Body>
  void Record(const Body& body) {
    MutexLock lock(&mutex_);
    body();
    changed_.SignalAll();
  }
  template <typename T>
  std::optional<T> Next(std::vector<T>* list) {
    MutexLock lock(&mutex_);
    while (list->empty()) {
      if (changed_.WaitWithTimeout(&mutex_, absl::Seconds(20)) && list->empty()) {
        ADD_FAILURE() << "nothing came";
        return std::nullopt;
      }
    }
    T first = std::move(list->front());
    list->erase(list->begin());
    return first;
  }

  Mutex mutex_;
  CondVar changed_;
  std::vector<absl::StatusOr<InspectedCheckpoint>> manifests_;
  std::vector<absl::StatusOr<PreparedPlan>> plans_;
  std::vector<absl::StatusOr<DonationStep>> donations_;
  std::vector<std::pair<std::string, absl::StatusOr<FoundZeroFolder>>> looks_;
  int num_inventories_ = 0;
  std::vector<NodeResult> results_;
  std::vector<std::pair<int32_t, AttachMode>> hand_overs_;
  std::vector<std::pair<std::vector<int32_t>, absl::Status>> freed_;
  std::vector<NodeStage> stages_;
};

}  // namespace zerocast

#endif  // ZEROCAST_TESTS_CLIENT_AGENT_RECORDING_EVENTS_H_
