/* Who has the processor first when a guest goes on: by priority, which the threads of commands' control group are given back. */
#include "precedence.h"
#include "agent.h"
#include "cgroups.h"
#include "processes.h"
#include "spawn.h"
#include <errno.h>
#include <stdlib.h>
#include <sys/resource.h>

/* that of this program */
#define HIGHEST (-20)
#define MAX_TEXT_BYTES (64u << 10)
/* one that is looked at may begin another with what it still has */
#define MAX_LOOKS 16

static struct timer timer;
/* the last process of when it began, 0 when it is over: those before have their priority from their users */
static pid_t since;

/* @returns whether there may be more like it */
static int give_back(pid_t thread, int began_anew) {
  if (thread <= since && !began_anew) return 0;
  errno = 0;
  int priority = getpriority(PRIO_PROCESS, (id_t)thread);
  if (errno != 0 || priority >= 0) return 0;
  /* what it asked for itself it asked for from there */
  return setpriority(PRIO_PROCESS, (id_t)thread, priority - HIGHEST) == 0;
}

static void end_precedence(void) {
  char *text = malloc(MAX_TEXT_BYTES);
  if (!text) die("memory");
  /* where numbers did meanwhile, none says who was there before: nobody may keep what is the agent's */
  int began_anew = last_process() < since;
  for (int looks = 0, more = 1; more && looks < MAX_LOOKS; looks++) {
    more = 0;
    if (read_file(COMMANDS_GROUP "/cgroup.threads", text, MAX_TEXT_BYTES) < 0) break;
    for (char *at = text, *end; *at; at = end) {
      pid_t thread = (pid_t)strtol(at, &end, 10);
      if (end == at) break;
      more |= give_back(thread, began_anew);
    }
  }
  free(text);
  since = 0;
}

void let_commands_go_first(int64_t ms) {
  /* without groups nobody could tell what they have begun */
  if (!has_groups()) return;
  pid_t last = last_process();
  /* numbers that begin anew meanwhile are no measure */
  if (last <= 0 || last < since) {
    if (since) end_precedence();
    return;
  }
  if (!since) since = last;
  set_timer(&timer, ms, end_precedence);
}

void take_place(void) {
  if (!since) take_turns();
}
