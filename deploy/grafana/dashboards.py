"""What Thresher's dashboards show, compactly. make-dashboards turns it into Grafana's JSON.

A dashboard is a list of rows, a row a title and its panels, which share the row's width. In queries
  %i  stands for a selector by job and instance,
  %m  for one by model too,
  %p  for one by policy too (%s: by accelerator preset),
  %r  for a rate's interval.
"""

from dataclasses import dataclass, field


@dataclass
class Panel:
    """One chart. `queries` maps a legend to its query."""

    title: str
    unit: str
    queries: dict
    about: str = ""
    kind: str = "timeseries"  # timeseries, stacked, heatmap, stat
    most: float = None  # Upper end of the axis.


@dataclass
class Dashboard:
    uid: str
    title: str
    about: str
    rows: dict
    variables: dict = field(default_factory=dict)  # Beside job, instance and model: name to query.


def percentiles(series, by="model", select="%m"):
    return {f"p{percent} {{{{{by}}}}}":
            f"histogram_quantile({percent / 100}, sum by ({by}, le) (rate({series}_bucket{{{select}}}[%r])))"
            for percent in (50, 90, 99)}


def mean(series, by="model", select="%m"):
    return (f"sum by ({by}) (rate({series}_sum{{{select}}}[%r]))"
            f" / (sum by ({by}) (rate({series}_count{{{select}}}[%r])) > 0)")


def heatmap(title, unit, series, about="", select="%m"):
    return Panel(title, unit, {"{{le}}": f"sum by (le) (increase({series}_bucket{{{select}}}[%r]))"},
                 about, kind="heatmap")


def share(part, others, by, select="%p"):
    """`part` over itself and `others`."""
    def rates(name):
        return f"sum by ({by}) (rate({name}{{{select}}}[%r]))"
    return f"{rates(part)} / ({rates(part)} + {rates(others)} > 0)"


SERVICE = Dashboard(
    "thresher-service", "Thresher: service",
    "Traffic, errors, latency, queue, batches, and what the processes take.",
    {
        "At a glance": [
            Panel("Servers that answer", "short", {"up": 'sum(up{%i})'}, kind="stat"),
            Panel("Models ready", "short", {"{{model}}": "sum by (model) (thresher_model_ready{%m})"},
                  "Servers on which the model can serve.", kind="stat"),
            Panel("Late answers, 1 h", "percentunit",
                  {"{{model}}": 'model:thresher_slow_answers:ratio_rate1h{model=~"$model"}'},
                  "Share of answers later than 100 ms. The objective allows 1 %.", kind="stat"),
            Panel("Failures, 1 h", "percentunit",
                  {"{{model}}": 'model:thresher_failures:ratio_rate1h{model=~"$model"}'},
                  "Share of inputs that failed by our doing. The objective allows 0.1 %.", kind="stat"),
            Panel("Build", "short",
                  {"{{version}} {{commit}}": "count by (version, commit) (thresher_build_info{%i})"},
                  "Servers of each build.", kind="stat"),
        ],
        "Traffic": [
            Panel("Inputs answered", "reqps",
                  {"{{model}} {{method}}":
                   'sum by (model, method) (rate(thresher_requests_total{%m, outcome="ok"}[%r]))'},
                  kind="stacked"),
            Panel("Inputs not answered", "reqps",
                  {"{{model}} {{outcome}}":
                   'sum by (model, outcome) (rate(thresher_requests_total{%m, outcome!="ok"}[%r]))'},
                  "resource_exhausted: the queue was full. deadline_exceeded: the caller's deadline passed, "
                  "or could not be met.", kind="stacked"),
            Panel("Turned away", "percentunit",
                  {"{{model}}": 'model:thresher_refusals:ratio_rate5m{model=~"$model"}'},
                  "Share of inputs refused since the queue was full."),
        ],
        "Latency": [
            heatmap("Latency", "s", "thresher_request_total_seconds",
                    "From the call's arrival to the answer."),
            Panel("Latency by percentile", "s", percentiles("thresher_request_total_seconds")),
            Panel("Where the time goes", "s",
                  {"queue": mean("thresher_request_queue_seconds", by=""),
                   "tokenize": mean("thresher_request_tokenize_seconds", by=""),
                   "compute": mean("thresher_request_compute_seconds", by="")},
                  "Means over all inputs.", kind="stacked"),
        ],
        "Queue": [
            Panel("Sequences", "short",
                  {"wait on {{instance}}": "thresher_queue_depth{%i}",
                   "run on {{instance}}": "thresher_running_sequences{%i}"}),
            Panel("Oldest wait", "s", {"{{instance}}": "thresher_queue_oldest_age_seconds{%i}"}),
            Panel("Pressure", "percentunit", {"{{instance}}": "thresher_queue_pressure{%i}"},
                  "How near the queue is to refusing, in number or in time.", most=1),
            Panel("Wait of nine in ten", "s",
                  {"{{instance}}": "instance:thresher_queue_seconds:p90_rate1m{%i}"},
                  "What the autoscaler looks at."),
            Panel("Executor busy", "percentunit",
                  {"{{instance}}": "instance:thresher_executor_busy:ratio_rate5m{%i}"},
                  "Share of the time in which a batch or a step runs.", most=1),
        ],
        "Batches": [
            heatmap("Sequences in a batch", "short", "thresher_batch_sequences"),
            heatmap("Tokens in a batch", "short", "thresher_batch_tokens"),
            Panel("Run of a batch", "s", percentiles("thresher_batch_compute_seconds")),
        ],
        "Process": [
            Panel("CPU", "short",
                  {"used by {{instance}}": "rate(process_cpu_seconds_total{%i}[%r])",
                   "threads of {{instance}}": "thresher_threads{%i}",
                   "quota of {{instance}}": "thresher_cpu_quota_cores{%i}"},
                  "Cores. A server without a quota has no line for it."),
            Panel("Held back by the quota", "percentunit",
                  {"time of {{instance}}": "instance:thresher_cpu_throttled:ratio_rate5m{%i}",
                   "periods a second of {{instance}}":
                   "rate(thresher_cpu_periods_throttled_total{%i}[%r])"},
                  "Share of the threads' time. Above a few per cent, latency suffers: give more CPU or "
                  "fewer threads."),
            Panel("Memory", "bytes",
                  {"resident, {{instance}}": "process_resident_memory_bytes{%i}",
                   "weights of {{model}} on {{instance}}": "thresher_model_packed_bytes{%m}"}),
            Panel("Files", "percentunit",
                  {"{{instance}}": "process_open_fds{%i} / process_max_fds{%i}"},
                  "File descriptors open, of those allowed.", most=1),
            Panel("Up for", "s", {"{{instance}}": "time() - process_start_time_seconds{%i}"}),
        ],
        "Callers": [
            Panel("Calls by token", "reqps",
                  {"{{caller}}": "sum by (caller) (rate(thresher_auth_accepted_total{%i}[%r]))"},
                  "By the name in the token file."),
            Panel("Refused", "reqps",
                  {"{{front}}: {{reason}} token": "sum by (front, reason) (rate(thresher_auth_refused_total{%i}[%r]))",
                   "connections beyond the limit": "sum (rate(thresher_grpc_connections_refused_total{%i}[%r]))"},
                  "Calls without a token that is known, and connections of which there were too many."),
            Panel("gRPC connections", "short", {"{{instance}}": "thresher_grpc_connections{%i}"}),
            Panel("Certificate expires in", "s",
                  {"{{instance}}": "thresher_tls_certificate_expiry_timestamp_seconds{%i} - time()"},
                  "Of a server with TLS; it reads new files by itself."),
        ],
    })

PRUNING = Dashboard(
    "thresher-pruning", "Thresher: pruning",
    "What was left out, by policy and kind of work. Done and skipped are the policy's decisions: tokens, "
    "heads, QKV and FFN rows are what was computed, values and scores what the policy reads.",
    {
        "Work": [
            Panel("Work saved", "percentunit",
                  {"{{policy}} {{kind}}": share("thresher_operations_skipped_total",
                                                "thresher_operations_done_total", "policy, kind")},
                  "Share of dense work left out.", most=1),
            Panel("Keep ratio", "percentunit",
                  {"{{policy}} {{kind}}": mean("thresher_keep_ratio", "policy, kind", "%p")},
                  "Work done over dense work, mean over answered inputs.", most=1),
            Panel("Elastic level", "percentunit",
                  {"{{model}}": mean("thresher_elastic_level", "model", "%m")},
                  "Under --elastic, the share of its allowed quality loss that a call was given; 0 is dense.",
                  most=1),
            Panel("Inputs by policy", "reqps",
                  {"{{model}} {{policy}}":
                   'sum by (model, policy) (rate(thresher_keep_ratio_count{%p, kind="token"}[%r]))'},
                  kind="stacked"),
        ],
        "Keep ratios": [
            heatmap("Tokens kept", "percentunit", "thresher_keep_ratio",
                    select='%p, kind="token"'),
            heatmap("Heads kept", "percentunit", "thresher_keep_ratio", select='%p, kind="head"'),
            heatmap("Values kept", "percentunit", "thresher_keep_ratio", select='%p, kind="value"'),
            heatmap("Scores kept", "percentunit", "thresher_keep_ratio", select='%p, kind="score"'),
        ],
        "Bytes of K and V": [
            Panel("Read and saved", "Bps",
                  {"read, {{policy}}": "sum by (policy) (rate(thresher_kv_fetched_bytes_total{%p}[%r]))",
                   "saved, {{policy}}": "sum by (policy) (rate(thresher_kv_saved_bytes_total{%p}[%r]))"},
                  kind="stacked"),
            Panel("Saved", "percentunit",
                  {"{{policy}}": share("thresher_kv_saved_bytes_total",
                                       "thresher_kv_fetched_bytes_total", "policy")}, most=1),
            Panel("Rows refetched", "percentunit",
                  {"{{policy}}":
                   "sum by (policy) (rate(thresher_refetched_rows_total{%p}[%r]))"
                   " / (sum by (policy) (rate(thresher_softmax_rows_total{%p}[%r])) > 0)"},
                  "Rows of probabilities made again in full width (progressive quantization).", most=1),
            Panel("Predicted besides", "ops",
                  {"rows, {{policy}}": "sum by (policy) (rate(thresher_predicted_rows_total{%p}[%r]))",
                   "scores, {{policy}}": "sum by (policy) (rate(thresher_predicted_scores_total{%p}[%r]))",
                   "outputs, {{policy}}": "sum by (policy) (rate(thresher_predicted_outputs_total{%p}[%r]))"},
                  "What predictions add: of attention scores (FACT and others), and of outputs that a ReLU may "
                  "make zero; dense has none."),
        ],
        "Agreement with dense (with --shadow-every)": [
            Panel("Same answer as dense", "percentunit",
                  {"{{model}}": 'sum by (model) (rate(thresher_shadow_checks_total{%m, outcome="agreed"}[%r]))'
                   ' / (sum by (model) (rate(thresher_shadow_checks_total{%m, outcome=~"agreed|disagreed"}[%r])) > 0)'},
                  "Of the pruned answers that were run again densely: the same class, or a cosine of at least 0.95.",
                  most=1),
            Panel("Drift", "short", {"{{model}}": mean("thresher_shadow_drift", "model", "%m")},
                  "Mean KL divergence from dense in nats, of embeddings 1 - cosine."),
            Panel("Checks", "reqps",
                  {"{{model}} {{outcome}}": "sum by (model, outcome) (rate(thresher_shadow_checks_total{%m}[%r]))"},
                  "Skipped: the queue was more than a quarter full.", kind="stacked"),
            Panel("Quality profile", "short",
                  {"{{model}} {{version}}": "min by (model, version) (thresher_quality_profile_active{%m})"},
                  "1: max_quality_loss is served by the profile. 0: its answers drifted, it is switched off."),
        ],
        "Attention of measured inputs": [
            heatmap("Entropy", "short", "thresher_attention_entropy_nats",
                    "Nats. A low one: few keys matter."),
            heatmap("Share of the first token", "percentunit", "thresher_attention_sink_share"),
            heatmap("Heads with a sink", "percentunit", "thresher_attention_sink_heads_share",
                    "That give the first token more than 0.3."),
            heatmap("Collapsed heads", "percentunit", "thresher_attention_collapsed_heads_share",
                    "Whose entropy is at most a quarter of the largest head's."),
            heatmap("Overloaded heads", "percentunit", "thresher_attention_overloaded_heads_share",
                    "Whose entropy is above three quarters of the largest head's."),
        ],
        "Layers (with --metrics-per-layer)": [
            Panel("Tokens kept, by layer", "percentunit",
                  {"layer {{layer}}": share("thresher_layer_operations_done_total",
                                            "thresher_layer_operations_skipped_total", "layer",
                                            '%p, kind="token"')}, most=1),
            Panel("Heads kept, by layer", "percentunit",
                  {"layer {{layer}}": share("thresher_layer_operations_done_total",
                                            "thresher_layer_operations_skipped_total", "layer",
                                            '%p, kind="head"')}, most=1),
        ],
    },
    {"policy": 'label_values(thresher_operations_done_total{job=~"$job"}, policy)'})

GENERATION = Dashboard(
    "thresher-generation", "Thresher: generation",
    "Texts: how soon, how fast, how many, and their memory.",
    {
        "How soon": [
            heatmap("First token", "s", "thresher_time_to_first_token_seconds",
                    "From the call's arrival."),
            Panel("First token by percentile", "s", percentiles("thresher_time_to_first_token_seconds")),
            Panel("Late first tokens, 1 h", "percentunit",
                  {"{{model}}": 'model:thresher_slow_first_tokens:ratio_rate1h{model=~"$model"}'},
                  "Share later than 500 ms. The objective allows 1 %.", kind="stat"),
        ],
        "How fast": [
            heatmap("From token to token", "s", "thresher_inter_token_latency_seconds"),
            Panel("From token to token by percentile", "s",
                  percentiles("thresher_inter_token_latency_seconds")),
            Panel("Tokens", "short",
                  {"generated, {{model}}": "sum by (model) (rate(thresher_generated_tokens_total{%m}[%r]))",
                   "prompt, {{model}}": "sum by (model) (rate(thresher_prompt_tokens_total{%m}[%r]))",
                   "prompt, not run, {{model}}":
                   "sum by (model) (rate(thresher_cached_prompt_tokens_total{%m}[%r]))"},
                  "A second, of texts that came to their end."),
        ],
        "How many": [
            Panel("Texts", "short",
                  {"run, {{model}}": "sum by (model) (thresher_running_texts{%m})",
                   "wait, {{model}}": "sum by (model) (thresher_waiting_texts{%m})"}, kind="stacked"),
            heatmap("Texts in a step", "short", "thresher_generation_step_texts"),
            Panel("Run of a step", "s", percentiles("thresher_generation_step_seconds")),
        ],
        "Memory": [
            Panel("KV memory", "bytes",
                  {"held, {{instance}}": "thresher_kv_cache_used_bytes{%i}",
                   "reserved, {{instance}}": "thresher_kv_cache_reserved_bytes{%i}",
                   "idle, {{instance}}": "thresher_kv_cache_idle_bytes{%i}"},
                  "Idle pages wait for prompts that begin alike, and give way to any text.",
                  kind="stacked"),
            Panel("KV memory taken", "percentunit",
                  {"{{instance}}": "instance:thresher_kv_cache_taken:ratio{%i}"},
                  "Held and reserved, of the limit.", most=1),
            Panel("Limit", "bytes", {"{{instance}}": "thresher_kv_cache_limit_bytes{%i}"}, kind="stat"),
            Panel("Prompt pages found", "percentunit",
                  {"{{instance}}": "rate(thresher_prefix_cache_hits_total{%i}[%r])"
                   " / (rate(thresher_prefix_cache_hits_total{%i}[%r])"
                   " + rate(thresher_prefix_cache_misses_total{%i}[%r]) > 0)"},
                  "Pages of prompts that another text had left.", most=1),
        ],
        "Pruned caches": [
            Panel("Read in decode steps", "Bps",
                  {"read, {{policy}}":
                   "sum by (policy) (rate(thresher_decode_kv_read_bytes_total{%p}[%r]))",
                   "saved, {{policy}}":
                   "sum by (policy) (rate(thresher_decode_kv_saved_bytes_total{%p}[%r]))"},
                  kind="stacked"),
            Panel("Reading saved", "percentunit",
                  {"{{policy}}": share("thresher_decode_kv_saved_bytes_total",
                                       "thresher_decode_kv_read_bytes_total", "policy")}, most=1),
            Panel("Memory saved", "percentunit",
                  {"{{policy}}": share("thresher_kv_held_saved_bytes_total",
                                       "thresher_kv_held_bytes_total", "policy")},
                  "Of what dense texts would hold at their end.", most=1),
        ],
    },
    {"policy": 'label_values(thresher_decode_kv_read_bytes_total{job=~"$job"}, policy)'})


def simulated(series, per="thresher_simulated_seconds_sum"):
    return (f"sum by (model, preset) (rate({series}{{%s}}[%r]))"
            f" / (sum by (model, preset) (rate({per}{{%s}}[%r])) > 0)")


ACCELERATOR = Dashboard(
    "thresher-accelerator", "Thresher: modelled accelerator",
    "Servers with --device sim:PRESET: time, energy and traffic on the modelled accelerator, for the real "
    "traffic.",
    {
        "Time": [
            heatmap("Time of a sequence", "s", "thresher_simulated_seconds", select="%s"),
            Panel("Time of a sequence by percentile", "s",
                  percentiles("thresher_simulated_seconds", "preset", "%s")),
            Panel("Accelerators needed", "short",
                  {"{{model}} on {{preset}}":
                   "sum by (model, preset) (rate(thresher_simulated_seconds_sum{%s}[%r]))"},
                  "Modelled seconds of work that arrive each second."),
            Panel("Cycles", "ops",
                  {"{{model}} on {{preset}}":
                   "sum by (model, preset) (rate(thresher_simulated_cycles_total{%s}[%r]))"},
                  "Modelled cycles of work, each second."),
        ],
        "Energy": [
            Panel("Energy of a sequence", "joule",
                  {"{{model}} on {{preset}}":
                   mean("thresher_simulated_energy_joules", "model, preset", "%s")}),
            heatmap("Energies", "joule", "thresher_simulated_energy_joules", select="%s"),
            Panel("Power while it works", "watt",
                  {"{{model}} on {{preset}}": simulated("thresher_simulated_energy_joules_sum")}),
        ],
        "Traffic": [
            Panel("Bytes of a sequence", "bytes",
                  {"{{model}} on {{preset}}":
                   mean("thresher_simulated_dram_bytes", "model, preset", "%s")}),
            Panel("Bandwidth while it works", "Bps",
                  {"{{model}} on {{preset}}": simulated("thresher_simulated_dram_bytes_sum")}),
            Panel("Rows of memory", "percentunit",
                  {"{{access}}, {{preset}}":
                   "sum by (preset, access) (rate(thresher_simulated_dram_rows_total{%s}[%r]))"
                   " / on (preset) group_left ()"
                   " (sum by (preset) (rate(thresher_simulated_dram_rows_total{%s}[%r])) > 0)"},
                  "Accesses whose row was open (hit), whose bank was closed (miss), or had another row "
                  "open (conflict).", kind="stacked", most=1),
        ],
        "Units": [
            Panel("Units at work", "percentunit",
                  {"{{unit}}, {{preset}}":
                   "sum by (preset, unit) (rate(thresher_simulated_busy_cycles_total{%s}[%r]))"
                   " / on (preset) group_left ()"
                   " (sum by (preset) (rate(thresher_simulated_cycles_total{%s}[%r])) > 0)"},
                  "Share of the cycles.", most=1),
            Panel("Stalls", "percentunit",
                  {"{{cause}}, {{preset}}":
                   "sum by (preset, cause) (rate(thresher_simulated_stall_cycles_total{%s}[%r]))"
                   " / on (preset) group_left ()"
                   " (sum by (preset) (rate(thresher_simulated_cycles_total{%s}[%r])) > 0)"},
                  "Cycles in which a unit could not go on, by cause, over all cycles."),
        ],
    },
    {"preset": 'label_values(thresher_simulated_cycles_total{job=~"$job"}, preset)'})

DASHBOARDS = [SERVICE, PRUNING, GENERATION, ACCELERATOR]

# Metrics of the server that no panel shows, with the reason.
LEFT_OUT = {
    "process_virtual_memory_bytes":
        "Address space, of which mapped files and allocators take much and use little; resident memory "
        "is what counts.",
}
