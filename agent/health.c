/*
 * HEALTHCHECK of an image: a program of its own beside the process, begun with it, which asks again and again as the image says. What
 * it finds out is in a file for the host that looks, and on the console for the host that listens.
 */
#include "agent.h"
#include "service.h"
#include "spawn.h"
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define STATE RUN_DIRECTORY "/health-state"
#define OWN_SHELL RUN_DIRECTORY "/bin/sh"
/* how often one that has ended its output is looked at */
#define LOOK_MS 20
#define MAX_DETAIL 160

static volatile pid_t checking;
static int console = -1;

/* The process has ended, and with it what asks it. */
static void asked_to_end(int number) {
  (void)number;
  if (checking > 0) kill(-checking, SIGKILL);
  _exit(0);
}

static void pause_for(int ms) {
  struct timespec left = {.tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000L};
  while (nanosleep(&left, &left) != 0 && errno == EINTR) continue;
}

static void note(const char *state, int failures, const char *detail) {
  char text[512], line[400];
  static const char *before = "";
  snprintf(text, sizeof text, "health=%s\nfailures=%d\nhealth-detail=%s\n", state, failures, detail);
  FILE *file = fopen(STATE ".new", "we");
  if (file) {
    fputs(text, file);
    fclose(file);
    rename(STATE ".new", STATE);
  }
  if (strcmp(state, before) == 0) return;
  before = state;
  snprintf(line, sizeof line, "banger-init: service is %s%s%s\n", state, *detail ? ": " : "", detail);
  if (console >= 0 && write(console, line, strlen(line)) < 0) return;
}

/* The last line that was said, of printable characters alone. */
static void keep_last_line(char *said, size_t length) {
  while (length > 0 && (unsigned char)said[length - 1] <= ' ') length--;
  size_t from = length;
  while (from > 0 && said[from - 1] != '\n') from--;
  memmove(said, said + from, length - from);
  said[length - from] = 0;
  for (char *at = said; *at; at++)
    if ((unsigned char)*at < ' ' || *at == 127) *at = ' ';
}

/* @returns 0 when it is well; `detail` says what is not */
static int check(const struct service *service, char *detail, size_t room) {
  char said[MAX_DETAIL + 1], how[64];
  size_t have = 0;
  int ends[2], status = 0, ended = 0;
  struct service asked = *service;
  asked.argv = service->check;
  if (strcmp(asked.argv[0], "/bin/sh") == 0 && access("/bin/sh", X_OK) != 0) asked.argv[0] = OWN_SHELL;
  if (pipe2(ends, O_CLOEXEC) != 0) {
    snprintf(detail, room, "it cannot be asked: %s", strerror(errno));
    return 1;
  }
  int64_t until = now_ms() + service->check_timeout_ms;
  pid_t child = fork();
  if (child < 0) {
    snprintf(detail, room, "it cannot be asked: %s", strerror(errno));
    close(ends[0]);
    close(ends[1]);
    return 1;
  }
  if (child == 0) {
    become_program();
    take_turns();
    setsid();
    const char *wrong = run_service(&asked, ends[1]);
    dprintf(ends[1], "%s: %s\n", wrong, strerror(errno));
    _exit(127);
  }
  checking = child;
  close(ends[1]);
  fcntl(ends[0], F_SETFL, O_NONBLOCK);
  while (!ended) {
    struct pollfd seen = {.fd = ends[0], .events = POLLIN};
    char bytes[512];
    /* whoever keeps the other end open for longer is not waited for */
    poll(&seen, ends[0] >= 0, LOOK_MS);
    ssize_t length;
    while (ends[0] >= 0 && (length = read(ends[0], bytes, sizeof bytes)) > 0) {
      size_t more = (size_t)length < MAX_DETAIL ? (size_t)length : MAX_DETAIL;
      if (have + more > MAX_DETAIL) {
        size_t over = have + more - MAX_DETAIL;
        memmove(said, said + over, have - over);
        have -= over;
      }
      memcpy(said + have, bytes + length - more, more);
      have += more;
      if (now_ms() >= until) break;
    }
    if (ends[0] >= 0 && seen.revents & POLLHUP && !(seen.revents & POLLIN)) {
      close(ends[0]);
      ends[0] = -1;
    }
    if (waitpid(child, &status, WNOHANG) == child) ended = 1;
    else if (now_ms() >= until) {
      kill(-child, SIGKILL);
      kill(child, SIGKILL);
      while (waitpid(child, &status, 0) < 0 && errno == EINTR) continue;
      break;
    }
  }
  checking = 0;
  if (ends[0] >= 0) close(ends[0]);
  if (ended && WIFEXITED(status) && WEXITSTATUS(status) == 0) return 0;
  keep_last_line(said, have);
  if (!ended) snprintf(how, sizeof how, "no answer for %d ms", service->check_timeout_ms);
  else if (WIFSIGNALED(status)) snprintf(how, sizeof how, "signal %d", WTERMSIG(status));
  else snprintf(how, sizeof how, "status %d", WEXITSTATUS(status));
  snprintf(detail, room, "%s%s%s", how, *said ? ": " : "", said);
  return 1;
}

void watch_health(void) {
  struct service service;
  char detail[MAX_DETAIL + 80] = "";
  int failures = 0, settled = 0;
  console = open(CONSOLE, O_WRONLY | O_NOCTTY | O_CLOEXEC);
  signal(SIGTERM, asked_to_end);
  if (!read_service(&service) || service.checks == 0) exit(0);
  int64_t begun_at = now_ms();
  note("starting", 0, "");
  for (;;) {
    int starting = !settled && now_ms() - begun_at < service.check_start_ms;
    int often = service.check_start_interval_ms < service.check_interval_ms;
    pause_for(starting && often ? service.check_start_interval_ms : service.check_interval_ms);
    starting = !settled && now_ms() - begun_at < service.check_start_ms;
    if (check(&service, detail, sizeof detail) == 0) {
      failures = 0;
      settled = 1;
      note("healthy", 0, "");
    } else if (!starting) {
      if (failures < service.check_retries) failures++;
      /* one that was never well is starting until it has failed often enough */
      if (failures >= service.check_retries) note("unhealthy", failures, detail);
      else note(settled ? "healthy" : "starting", failures, detail);
    } else note("starting", 0, detail);
  }
}
