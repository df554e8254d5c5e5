/* Beginning a program for the host: in the group that is frozen with the rest, as if nobody of ours had been there before. */
#include "spawn.h"
#include "agent.h"
#include "kernel.h"
#include <fcntl.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

pid_t fork_command(void) {
  int group = command_group();
  if (group >= 0) {
    /* begun there rather than moved there, which has all processors wait for each other */
    struct clone_arguments arguments = {
        .flags = CLONE_INTO_CGROUP, .exit_signal = SIGCHLD, .cgroup = (uint64_t)group};
    pid_t child = (pid_t)syscall(SYS_clone3, &arguments, sizeof arguments);
    if (child >= 0) return child;
  }
  return fork();
}

void become_program(void) {
  sigset_t none;
  for (int number = 1; number < 32; number++) signal(number, SIG_DFL);
  sigemptyset(&none);
  sigprocmask(SIG_SETMASK, &none, NULL);
  write_text("/proc/self/oom_score_adj", "0");
}

void take_turns(void) { setpriority(PRIO_PROCESS, 0, 0); }
