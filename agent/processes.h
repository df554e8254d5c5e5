/* The kernel's list of processes, at one moment. */
#ifndef PROCESSES_H
#define PROCESSES_H

#include <stddef.h>
#include <sys/types.h>

struct process {
  pid_t pid, parent, session;
  int marked;
};

struct processes {
  /* by number, to be freed */
  struct process *list;
  size_t count;
};

void list_processes(struct processes *);
const struct process *find_process(const struct processes *, pid_t);
/* Whether the program it runs is such a one. */
int process_program(pid_t, int (*is_such)(const char *path));

#endif
