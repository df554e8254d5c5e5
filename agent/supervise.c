/*
 * Process 1 of a guest whose image has no init of its own: begins the image's process, again where it failed, passes on what it
 * says, takes in whoever lost its parent, and brings the guest down in order. Beside an init of the image it does the first two.
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
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#define STATE RUN_DIRECTORY "/service-state"
#define SERVICE_GROUP "/sys/fs/cgroup/banger-service"
#define FIRST_PAUSE_MS 1000
#define LONGEST_PAUSE_MS 60000
/* one that ran for so long had not failed at its beginning */
#define SETTLED_MS 60000
/* what everybody else gets to end */
#define OTHERS_MS 2000

static struct service service;
static pid_t running, health;
static int console = -1, output = -1, restarts, going_down;
static struct watch *output_watch;
static struct timer again, patience, health_again;
static int64_t begun_at;
static int pause_ms = FIRST_PAUSE_MS;

static void begin(void);

static void say(const char *text) {
  char line[512];
  int length = snprintf(line, sizeof line, "banger-init: %s\n", text);
  if (console >= 0 && write(console, line, (size_t)length) < 0) return;
}

/* Whole when it has its name: the agent reads it for the host. */
static void note(const char *state, const char *detail) {
  char text[1024];
  snprintf(text, sizeof text, "state=%s\npid=%d\nrestarts=%d\ndetail=%s\n", state, (int)running, restarts, detail);
  FILE *file = fopen(STATE ".new", "we");
  if (!file) return;
  fputs(text, file);
  fclose(file);
  rename(STATE ".new", STATE);
}

static void pass_output(void *owner, short seen) {
  char bytes[4096];
  (void)owner;
  (void)seen;
  ssize_t length = read(output, bytes, sizeof bytes);
  if (length > 0) {
    for (ssize_t at = 0, done; at < length; at += done)
      if ((done = write(console, bytes + at, (size_t)(length - at))) < 0) break;
    return;
  }
  if (length < 0 && (errno == EAGAIN || errno == EINTR)) return;
  unwatch(output_watch);
  close(output);
  output = -1;
}

/* What has been said already; nobody will look again. */
static void pass_rest(void) {
  struct pollfd seen = {.fd = output, .events = POLLIN};
  for (int times = 0; times < 64 && output >= 0 && poll(&seen, 1, 0) == 1; times++) pass_output(NULL, 0);
}

static void fail_to_begin(const char *what, int number) {
  char text[400];
  snprintf(text, sizeof text, "%s: %s", what, strerror(number));
  running = 0;
  note("failed", text);
  char line[450];
  snprintf(line, sizeof line, "service could not begin: %s", text);
  say(line);
}

/* What asks the process whether it is well lives as long as it. */
static void begin_health(void) {
  if (service.checks == 0 || health || !running) return;
  health = fork();
  if (health < 0) {
    health = 0;
    set_timer(&health_again, FIRST_PAUSE_MS, begin_health);
    return;
  }
  if (health > 0) return;
  become_program();
  take_turns();
  execl("/proc/self/exe", "banger-agent", "--health", NULL);
  _exit(127);
}

static void end_health(void) {
  if (health > 0) kill(health, SIGTERM);
  unlink(RUN_DIRECTORY "/health-state");
}

/* What a child could not do, told by a pipe that closes when it could. */
struct trouble {
  int number;
  char what[256];
};

static void begin(void) {
  int ends[2], report[2];
  struct trouble trouble = {0};
  if (going_down || pipe2(ends, O_CLOEXEC) != 0 || pipe2(report, O_CLOEXEC) != 0) return;
  pid_t child = fork();
  if (child == 0) {
    become_program();
    take_turns();
    setsid();
    mkdir(SERVICE_GROUP, 0755);
    write_text(SERVICE_GROUP "/cgroup.procs", "0");
    snprintf(trouble.what, sizeof trouble.what, "%s", run_service(&service, ends[1]));
    trouble.number = errno;
    ssize_t written = write(report[1], &trouble, sizeof trouble);
    _exit(written < 0 ? 126 : 127);
  }
  close(ends[1]);
  close(report[1]);
  ssize_t told = child < 0 ? 0 : read(report[0], &trouble, sizeof trouble);
  close(report[0]);
  if (output >= 0) {
    unwatch(output_watch);
    close(output);
  }
  output = ends[0];
  fcntl(output, F_SETFL, O_NONBLOCK);
  output_watch = watch(output, POLLIN, pass_output, NULL);
  begun_at = now_ms();
  if (child < 0) fail_to_begin("fork", errno);
  else if (told == (ssize_t)sizeof trouble) fail_to_begin(trouble.what, trouble.number);
  else {
    running = child;
    note("running", "");
    say("service started");
    begin_health();
  }
}

static int wants_more(int failed) {
  const char *policy = service.restart ? service.restart : "on-failure";
  if (strcmp(policy, "always") == 0) return 1;
  return failed && strcmp(policy, "on-failure") == 0;
}

static void go_down(void);

static void service_ended(int status) {
  char how[64], line[200];
  if (WIFSIGNALED(status)) snprintf(how, sizeof how, "signal %d", WTERMSIG(status));
  else snprintf(how, sizeof how, "status %d", WEXITSTATUS(status));
  running = 0;
  end_health();
  if (going_down) {
    note("ended", how);
    go_down();
    return;
  }
  int failed = WIFSIGNALED(status) || WEXITSTATUS(status) != 0;
  if (!wants_more(failed)) {
    note(failed ? "failed" : "ended", how);
    snprintf(line, sizeof line, "service ended with %s", how);
    say(line);
    return;
  }
  if (now_ms() - begun_at >= SETTLED_MS) pause_ms = FIRST_PAUSE_MS;
  restarts++;
  note("waiting", how);
  snprintf(line, sizeof line, "service ended with %s and begins again in %d s", how, pause_ms / 1000);
  say(line);
  set_timer(&again, pause_ms, begin);
  pause_ms = pause_ms * 2 > LONGEST_PAUSE_MS ? LONGEST_PAUSE_MS : pause_ms * 2;
}

static void child_ended(pid_t pid, int status) {
  if (pid == running) service_ended(status);
  if (pid != health) return;
  health = 0;
  /* it may have put back what was taken away when it was told to end */
  unlink(RUN_DIRECTORY "/health-state");
  if (running && !going_down) set_timer(&health_again, FIRST_PAUSE_MS, begin_health);
}

/* File systems of disks, the root last; what is still in use is made to be read only. */
static void put_disks_away(void) {
  char *lines = malloc(64 << 10), *rest = NULL;
  sync();
  if (lines && read_file("/proc/mounts", lines, 64 << 10) >= 0)
    for (char *line = strtok_r(lines, "\n", &rest); line; line = strtok_r(NULL, "\n", &rest)) {
      char from[256], at[1024];
      if (sscanf(line, "%255s %1023s", from, at) != 2 || strncmp(from, "/dev/", 5) != 0) continue;
      if (strcmp(at, "/") != 0 && umount(at) != 0) mount(NULL, at, NULL, MS_REMOUNT | MS_RDONLY, NULL);
    }
  mount(NULL, "/", NULL, MS_REMOUNT | MS_RDONLY, NULL);
  sync();
}

/* Called again and again, each time with fewer who are still there. */
static void go_down(void) {
  static int step;
  stop_timer(&again);
  switch (step++) {
  case 0:
    if (running) {
      kill(running, service.stop_signal);
      set_timer(&patience, service.grace_ms, go_down);
      return;
    }
    step++;
    /* fall through */
  case 1:
    /* beside an init the others are that one's */
    if (getpid() != 1) {
      pass_rest();
      _exit(0);
    }
    kill(-1, SIGTERM);
    set_timer(&patience, OTHERS_MS, go_down);
    return;
  default:
    kill(-1, SIGKILL);
    put_disks_away();
    reboot(going_down == SIGUSR1 || going_down == SIGUSR2 ? RB_POWER_OFF : RB_AUTOBOOT);
    _exit(1);
  }
}

/* As inits know them: interrupt and terminate mean a reboot, the others a guest that stays off. */
static void signalled(void *owner, short seen) {
  struct signalfd_siginfo info;
  (void)seen;
  while (read(*(int *)owner, &info, sizeof info) == (ssize_t)sizeof info) {
    if (!going_down) say("going down");
    int first = !going_down;
    going_down = going_down ? going_down : (int)info.ssi_signo;
    if (first) go_down();
  }
}

static void heed(const int *numbers, size_t count) {
  static int fd;
  sigset_t wanted;
  sigemptyset(&wanted);
  for (size_t at = 0; at < count; at++) sigaddset(&wanted, numbers[at]);
  sigprocmask(SIG_BLOCK, &wanted, NULL);
  fd = signalfd(-1, &wanted, SFD_CLOEXEC | SFD_NONBLOCK);
  if (fd < 0) die("signalfd");
  watch(fd, POLLIN, signalled, &fd);
}

static void become_init(void) {
  static const int numbers[] = {SIGINT, SIGTERM, SIGUSR1, SIGUSR2, SIGPWR};
  heed(numbers, sizeof numbers / sizeof *numbers);
  /* Ctrl-Alt-Del is then a signal, too */
  reboot(RB_DISABLE_CAD);
  mount("cgroup2", "/sys/fs/cgroup", "cgroup2", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL);
}

void supervise(void) {
  signal(SIGPIPE, SIG_IGN);
  console = open(CONSOLE, O_WRONLY | O_NOCTTY | O_CLOEXEC);
  on_child(child_ended);
  static const int to_end[] = {SIGTERM};
  if (getpid() == 1) become_init();
  else heed(to_end, 1);
  if (read_service(&service)) begin();
  else note("none", "");
  run_loop();
  _exit(1);
}
