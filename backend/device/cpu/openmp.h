// The two functions of GNU OpenMP's runtime that are needed to keep it quiet. Debian's oneDNN is
// linked with that runtime (libgomp), whichever compiler builds this tree, and omp.h belongs to a
// compiler: clang's declares another runtime's functions, which oneDNN would not hear.
#ifndef THRESHER_BACKEND_DEVICE_CPU_OPENMP_H_
#define THRESHER_BACKEND_DEVICE_CPU_OPENMP_H_

extern "C" {
/// Of the calling thread's next parallel regions.
int omp_get_max_threads(void);
void omp_set_num_threads(int threads);
}

#endif  // THRESHER_BACKEND_DEVICE_CPU_OPENMP_H_
