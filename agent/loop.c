/* The loop: waits for descriptors, moments and children, and calls whoever waits for them. */
#include "agent.h"
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/signalfd.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define MAX_TIMERS 4

static struct watch *watches;
static struct timer *timers[MAX_TIMERS];
static void (*child_ended)(pid_t, int);

void die(const char *what) {
  fprintf(stderr, "banger-agent: %s: %s\n", what, strerror(errno));
  exit(1);
}

struct watch *watch(int fd, short events, void (*on)(void *, short), void *owner) {
  struct watch *watch = calloc(1, sizeof *watch);
  if (!watch) die("memory");
  *watch = (struct watch){.next = watches, .fd = fd, .events = events, .on = on, .owner = owner};
  watches = watch;
  return watch;
}

void unwatch(struct watch *watch) {
  if (watch) watch->gone = 1;
}

int64_t now_ms(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

void set_timer(struct timer *timer, int64_t after_ms, void (*on)(void)) {
  timer->due = now_ms() + after_ms;
  timer->on = on;
  for (int at = 0; at < MAX_TIMERS; at++)
    if (timers[at] == timer) return;
  for (int at = 0; at < MAX_TIMERS; at++)
    if (!timers[at]) {
      timers[at] = timer;
      return;
    }
  errno = EAGAIN;
  die("timers");
}

void stop_timer(struct timer *timer) {
  timer->due = 0;
  for (int at = 0; at < MAX_TIMERS; at++)
    if (timers[at] == timer) timers[at] = NULL;
}

static int time_left(void) {
  int64_t left = -1, now = now_ms();
  for (int at = 0; at < MAX_TIMERS; at++) {
    if (!timers[at]) continue;
    int64_t mine = timers[at]->due > now ? timers[at]->due - now : 0;
    if (left < 0 || mine < left) left = mine;
  }
  return left > 60000 ? 60000 : (int)left;
}

static void call_timers(void) {
  int64_t now = now_ms();
  for (int at = 0; at < MAX_TIMERS; at++) {
    struct timer *timer = timers[at];
    if (!timer || timer->due > now) continue;
    stop_timer(timer);
    timer->on();
  }
}

static void children_ended(void *owner, short seen) {
  (void)seen;
  struct signalfd_siginfo info;
  while (read(*(int *)owner, &info, sizeof info) > 0) continue;
  pid_t pid;
  int status;
  while ((pid = waitpid(-1, &status, WNOHANG)) > 0) child_ended(pid, status);
}

void on_child(void (*ended)(pid_t, int)) {
  static int fd;
  sigset_t children;
  child_ended = ended;
  sigemptyset(&children);
  sigaddset(&children, SIGCHLD);
  sigprocmask(SIG_BLOCK, &children, NULL);
  fd = signalfd(-1, &children, SFD_CLOEXEC | SFD_NONBLOCK);
  if (fd < 0) die("signalfd");
  watch(fd, POLLIN, children_ended, &fd);
}

/* Removes what is gone. @returns how many are left */
static size_t sweep(void) {
  size_t count = 0;
  for (struct watch **at = &watches; *at;) {
    struct watch *one = *at;
    if (one->gone) {
      *at = one->next;
      free(one);
    } else {
      at = &one->next;
      count++;
    }
  }
  return count;
}

void run_loop(void) {
  struct pollfd *polled = NULL;
  struct watch **owners = NULL;
  size_t room = 0;
  for (;;) {
    size_t count = sweep(), at = 0;
    free_links();
    if (count > room) {
      room = count + 16;
      polled = realloc(polled, room * sizeof *polled);
      owners = realloc(owners, room * sizeof *owners);
      if (!polled || !owners) die("memory");
    }
    for (struct watch *one = watches; one; one = one->next, at++) {
      /* nothing is asked of one that waits, not even whether it broke: poll would return at once, again and again */
      polled[at] = (struct pollfd){one->events ? one->fd : -1, one->events, 0};
      owners[at] = one;
    }
    if (poll(polled, count, time_left()) < 0 && errno != EINTR) die("poll");
    call_timers();
    for (at = 0; at < count; at++)
      if (polled[at].revents && !owners[at]->gone) owners[at]->on(owners[at]->owner, polled[at].revents);
  }
}
