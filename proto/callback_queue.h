// gRPC's callback interface runs on one queue for the whole process, with threads of its own: it
// is made for the first server or channel that needs it and torn down with the last. In gRPC 1.51
// (Debian 12 and 13) the tearing down is a race: now and then a thread of the queue gives back a
// reference too many ("assertion failed: prior > 0"), or the last channel dies on a thread that the
// queue then waits for. So the queue is never torn down.
#ifndef THRESHER_PROTO_CALLBACK_QUEUE_H_
#define THRESHER_PROTO_CALLBACK_QUEUE_H_

namespace thresher {

/// Holds gRPC's callback queue until the process ends. To be called before the first server or
/// channel with callbacks is destroyed; cheap when repeated. Thread-safe.
void KeepCallbackQueue();

}  // namespace thresher

#endif  // THRESHER_PROTO_CALLBACK_QUEUE_H_
