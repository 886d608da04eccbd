# The gRPC front. Included by server/CMakeLists.txt.
thresher_library(server_grpc
  SRCS generate_stream.cc grpc_access_log.cc grpc_credentials.cc grpc_listener.cc grpc_message.cc grpc_server.cc grpc_status.cc health_service.cc
       infer_stream.cc inference.cc inference_statistics.cc shadow_check.cc open_inference.cc
       open_inference_report.cc open_inference_service.cc open_inference_tensors.cc
       open_inference_texts.cc postprocess.cc request_account.cc text_generation.cc
       text_request.cc thresher_calls.cc thresher_service.cc worker_threads.cc
  DEPS thresher::server_core thresher::callback_queue thresher::grpc thresher::grpc_reflection thresher::engine
       thresher::report_json
       thresher::scheduler PkgConfig::UTF8PROC)
