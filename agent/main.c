/*
 * banger-agent: runs in each guest of banger, from before its init until its end, and does for the host what has to be done
 * inside. It listens on vsock where the machine has that, and on fcqemu's port where not.
 */
#include "agent.h"
#include "cgroups.h"
#include "grow.h"
#include "service.h"
#include "sockets.h"
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/reboot.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

/* time the kernel has to find the devices */
#define DEVICE_SECONDS 10
/* a program of ours that fell is begun again, and not faster than that */
#define AGAIN_SECONDS 1

static void child_ended(pid_t pid, int status) {
  if (!quiesce_child(pid, status)) session_child(pid, status);
}

#ifdef FOR_TESTS
#include <sys/socket.h>
#include <sys/un.h>

/* --listen PATH: a Unix socket in place of vsock; --port PATH: one in place of the port, to connect to. */
static int find_host(int argc, char **argv) {
  if (argc != 3) return 0;
  if (strcmp(argv[1], "--listen") == 0) {
    listen_unix(argv[2]);
    return 1;
  }
  struct sockaddr_un address = {.sun_family = AF_UNIX};
  snprintf(address.sun_path, sizeof address.sun_path, "%s", argv[2]);
  int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (fd < 0 || connect(fd, (struct sockaddr *)&address, sizeof address) != 0) die(argv[2]);
  fcntl(fd, F_SETFL, O_NONBLOCK);
  use_port(fd);
  return 1;
}
#else
static int find_host(int argc, char **argv) {
  (void)argc;
  (void)argv;
  const struct timespec moment = {.tv_nsec = 20000000};
  for (int attempt = 0; attempt < DEVICE_SECONDS * 50; attempt++) {
    int port = open_port();
    if (port >= 0) {
      use_port(port);
      return 1;
    }
    if (access("/dev/vsock", F_OK) == 0 && listen_vsock()) return 1;
    nanosleep(&moment, NULL);
  }
  return 0;
}
#endif

static int serve(int argc, char **argv) {
  signal(SIGPIPE, SIG_IGN);
  /* without it a guest whose memory is full could not be helped any more */
  write_text("/proc/self/oom_score_adj", "-1000");
  /* what it does takes milliseconds, and everything else waits for some of it: a wake, before which nobody may go on */
  setpriority(PRIO_PROCESS, 0, -20);
  on_child(child_ended);
  begin_ready();
  /* of one before this that fell */
  let_ssh_servers_go();
  if (!find_host(argc, argv)) return 0;
  run_loop();
  return 1;
}

#ifdef FOR_TESTS
int main(int argc, char **argv) {
  if (argc == 2 && strcmp(argv[1], "--health") == 0) watch_health();
  return serve(argc, argv);
}
#else
/* Whoever falls is begun again by its parent, which does nothing else and ends with it when that has nothing to do. */
int main(int argc, char **argv) {
  if (argc == 2 && strcmp(argv[1], "--init") == 0) supervise();
  if (argc == 2 && strcmp(argv[1], "--service") == 0) return exec_service();
  if (argc == 2 && strcmp(argv[1], "--health") == 0) watch_health();
  if (argc == 4 && strcmp(argv[1], "--grow") == 0) return grow(argv[2], argv[3]);
  /* of no session that ends before it does */
  setsid();
  /* a signal to init from now on, as most of them ask for: the kernel would restart the machine with nothing written out */
  reboot(RB_DISABLE_CAD);
  for (;;) {
    pid_t child = fork();
    if (child < 0) die("fork");
    if (child == 0) exit(serve(argc, argv));
    int status = 0;
    while (waitpid(child, &status, 0) < 0 && errno == EINTR) continue;
    if (WIFEXITED(status) && WEXITSTATUS(status) == 0) return 0;
    if (WIFSIGNALED(status) && WTERMSIG(status) == SIGTERM) return 0;
    const struct timespec pause = {.tv_sec = AGAIN_SECONDS};
    nanosleep(&pause, NULL);
  }
}
#endif
