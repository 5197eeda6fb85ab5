/* Preloaded into a node by test_clock.py: the time of day is ahead by the seconds in the file named by WALL_AHEAD (a
   double, native), and every other clock stays what it is. libfaketime 0.9.10 breaks absolute sleeps on the monotonic
   clock, on which Python's own sleep relies. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static volatile double *ahead;

__attribute__((constructor)) static void begin(void) {
    const char *file = getenv("WALL_AHEAD");
    int descriptor = file ? open(file, O_RDONLY | O_CLOEXEC) : -1;
    if (descriptor < 0) return;
    void *page = mmap(0, sizeof(double), PROT_READ, MAP_SHARED, descriptor, 0);
    if (page != MAP_FAILED) ahead = page;
    close(descriptor);
}

int clock_gettime(clockid_t clock, struct timespec *out) {
    long answer = syscall(SYS_clock_gettime, clock, out);
    if (answer == 0 && ahead && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE)) out->tv_sec += (time_t)*ahead;
    return (int)answer;
}

int gettimeofday(struct timeval *restrict out, void *restrict zone) {
    struct timespec now;
    (void)zone;
    clock_gettime(CLOCK_REALTIME, &now);
    out->tv_sec = now.tv_sec;
    out->tv_usec = now.tv_nsec / 1000;
    return 0;
}

time_t time(time_t *out) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (out) *out = now.tv_sec;
    return now.tv_sec;
}
