/* Beginning a program for the host. */
#ifndef SPAWN_H
#define SPAWN_H

#include <sys/types.h>

/* As fork(), into the control group of commands where there is one. */
pid_t fork_command(void);
/* In the child: signals and privileges against the kernel's out-of-memory killer as any program has them. */
void become_program(void);
/* In the child, as the last before the program: from then on it has no more of the processor than others. */
void take_turns(void);

#endif
