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
/* Those alone that run such a program: most are known by that not to be of interest, in a fraction of the time. */
void list_programs(struct processes *, int (*is_such)(const char *path));
/* Adds that one when it runs such a program; to be called in the order of their numbers. */
void add_program(struct processes *, pid_t, int (*is_such)(const char *path));
/* The number of the process that began last, or -1. */
pid_t last_process(void);
const struct process *find_process(const struct processes *, pid_t);

#endif
