/* Who has the processor first when a guest goes on. */
#ifndef PRECEDENCE_H
#define PRECEDENCE_H

#include <stdint.h>

/*
 * Commands that begin within that time go before everything that was thawed, all of which is awake at once; then they take
 * turns with it, with whatever they have begun.
 */
void let_commands_go_first(int64_t ms);
/* In the child, as the last before the program: from then on it has no more of the processor than others, but for that time. */
void take_place(void);

#endif
