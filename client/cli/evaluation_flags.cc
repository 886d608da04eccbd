#include "client/cli/evaluation_flags.h"

#include <map>

#include "backend/device/cpu_resources.h"
#include "backend/evaluation/sweep.h"
#include "backend/tensor/status.h"
#include "client/cli/share.h"

namespace thresher::cli {

void AddDataFlags(CLI::App& app, DataFlags& flags) {
  app.add_option("--data", flags.path, "Labelled examples, tab-separated, one a line")
      ->required()
      ->option_text("FILE")
      ->group("Data");
  const auto column = [&](const std::string& name, std::string& value, const std::string& what) {
    app.add_option(name, value, what)->option_text("N|NAME")->group("Data");
  };
  column("--text-column", flags.columns.text,
         "By number from 1 or by name in the header (default: by the usual names)");
  column("--pair-column", flags.columns.pair, "The second text of pairs, likewise");
  column("--label-column", flags.columns.label,
         "Likewise. Labels are the model's names or numbers; scores are decimal numbers");
  app.add_flag_function(
         "--header,!--no-header", [&flags](int64_t count) { flags.columns.header = count > 0; },
         "The first line names the columns, or not (default: if it looks so)")
      ->group("Data");
  app.add_option("--task", flags.measure,
                 "accuracy (of classes), or similarity (of pairs); default: by the model")
      ->transform(CLI::CheckedTransformer(std::map<std::string, Measure>{
          {"accuracy", Measure::kAccuracy}, {"similarity", Measure::kSimilarity}}))
      ->option_text("accuracy|similarity")
      ->group("Data");
  app.add_option("--limit", flags.limit, "Use so many examples, evenly spread (default: all)")
      ->check(CLI::PositiveNumber)
      ->option_text("N")
      ->group("Data");
}

void AddLocalModelFlags(CLI::App& app, LocalModelFlags& flags) {
  app.add_option("--device", flags.device,
                 "cpu (default), cpu:onednn, or reference, which is slow and exact")
      ->option_text("NAME")
      ->group("In this process");
  app.add_option("--precision", flags.precision, "f32, bf16 or int8 (default: the device's)")
      ->option_text("NAME")
      ->group("In this process");
  app.add_option("--threads", flags.threads, "Default: the CPUs that this process may use")
      ->check(CLI::Range(1, 1024))
      ->option_text("N")
      ->group("In this process");
}

CLI::Option* AddShares(CLI::App& app, std::vector<double>& shares) {
  return app
      .add_option("--shares", shares,
                  "What * stands for (default 0.9,0.8,...,0.1); ~ stands for (1 - X)^2")
      ->delimiter(',')
      ->check(CheckShare)
      ->transform(
          [](const std::string& text) { return fmt::format("{}", ParseShare(text).value_or(0)); })
      ->allow_extra_args(false)
      ->option_text("X,...");
}

std::vector<std::string> PoliciesOf(const std::string& sparsity,
                                    const std::vector<double>& shares) {
  if (!HasShare(sparsity)) return {sparsity};
  std::vector<std::string> policies;
  for (const double share : shares) policies.push_back(WithShare(sparsity, share));
  return policies;
}

absl::StatusOr<std::shared_ptr<LoadedModel>> LoadLocalModel(const std::string& directory,
                                                            const LocalModelFlags& flags) {
  DeviceOptions device_options;
  device_options.threads = flags.threads > 0 ? flags.threads : DetectCpuResources().usable();
  auto device = CreateDevice(flags.device, device_options);
  if (!device.ok()) {
    return InvalidArgument("--device: {}", Message(device.status()));
  }
  LoadOptions options;
  if (!flags.precision.empty()) {
    THRESHER_ASSIGN_OR_RETURN(options.precision, ParsePrecision(flags.precision));
  }
  return LoadModel(directory, std::shared_ptr<Device>(*std::move(device)), options);
}

absl::StatusOr<LabelledData> ReadData(const DataFlags& flags, Measure measure,
                                      std::span<const std::string> labels) {
  THRESHER_ASSIGN_OR_RETURN(LabelledData data,
                            ReadLabelledData(flags.path, flags.columns, measure, labels));
  data.Limit(flags.limit);
  return data;
}

}  // namespace thresher::cli
