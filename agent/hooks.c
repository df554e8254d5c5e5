/* After a wake, in the background: the guest's own hooks run by name, and the journal begins under its new id. */
#include "hooks.h"
#include "agent.h"
#include "spawn.h"
#include <ctype.h>
#include <dirent.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#ifndef HOOKS
#define HOOKS "/etc/banger/wake.d"
#endif
#define LOG RUN_DIRECTORY "/wake.log"
/* what each may take */
#define HOOK_SECONDS 60
/* whoever woke the guest has the machine first: starting the journal anew takes an emulated one longer than a command does */
#define JOURNAL_SECONDS 2

/* Runs it and waits; runs that take too long are ended. */
static void run(const char *program, char *const argv[]) {
  pid_t child = fork();
  if (child == 0) {
    setpgid(0, 0);
    alarm(HOOK_SECONDS);
    execv(program, argv);
    _exit(127);
  }
  int status = 0;
  if (child < 0 || waitpid(child, &status, 0) < 0) return;
  if (status != 0) dprintf(2, "%s ended with status %d\n", program, WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status));
  kill(-child, SIGKILL);
}

/* As run-parts has it: letters, digits, `_` and `-`, so that no copy of an editor's is run. */
static int is_hook(const struct dirent *entry) {
  for (const char *at = entry->d_name; *at; at++)
    if (!isalnum((unsigned char)*at) && *at != '_' && *at != '-') return 0;
  return entry->d_name[0] != 0;
}

static void run_all(void) {
  struct dirent **entries;
  int count = scandir(HOOKS, &entries, is_hook, alphasort);
  for (int at = 0; at < count; at++) {
    char path[512];
    struct stat found;
    snprintf(path, sizeof path, HOOKS "/%s", entries[at]->d_name);
    char *argv[] = {path, NULL};
    if (stat(path, &found) == 0 && S_ISREG(found.st_mode) && found.st_mode & 0111) run(path, argv);
  }
}

static void restart_journal(void) {
  static const char *const programs[] = {"/usr/bin/systemctl", "/bin/systemctl"};
  if (access("/run/systemd/journal", F_OK) != 0) return;
  for (size_t at = 0; at < 2; at++) {
    char *argv[] = {"systemctl", "--no-block", "try-restart", "systemd-journald.service", NULL};
    if (access(programs[at], X_OK) != 0) continue;
    run(programs[at], argv);
    return;
  }
}

void run_hooks(const char *const modes[], const char *generation) {
  int is_new = strcmp(modes[0], "new") == 0;
  if (!is_new && access(HOOKS, F_OK) != 0) return;
  pid_t child = fork_command();
  if (child != 0) return;
  become_program();
  take_turns();
  /* what the next boot begins with: a power cut must not bring back what the machine before had */
  if (is_new) sync();
  int log = open(LOG, O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW, 0600), nothing = open("/dev/null", O_RDONLY);
  if (log < 0 || nothing < 0) _exit(1);
  dup2(nothing, 0);
  dup2(log, 1);
  dup2(log, 2);
  setsid();
  setenv("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", 1);
  setenv("BANGER_GENERATION", generation, 1);
  for (; *modes; modes++) {
    setenv("BANGER_WAKE", *modes, 1);
    run_all();
  }
  if (is_new) {
    sleep(JOURNAL_SECONDS);
    restart_journal();
  }
  _exit(0);
}
