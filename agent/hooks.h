/* What the guest itself does after it was woken. */
#ifndef HOOKS_H
#define HOOKS_H

/*
 * In the background: the programs in /etc/banger/wake.d, one after the other, for each of these modes in turn, of which NULL is the
 * last. `new` comes first, and after all of them the journal begins under its new id then.
 */
void run_hooks(const char *const modes[], const char *generation);

#endif
