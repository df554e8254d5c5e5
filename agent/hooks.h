/* What the guest itself does after it was woken. */
#ifndef HOOKS_H
#define HOOKS_H

/* In the background: the journal under its new id, then the programs in /etc/banger/wake.d, one after the other. */
void run_hooks(const char *mode, const char *generation, int is_new);

#endif
