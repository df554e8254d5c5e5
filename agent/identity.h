/* Who a guest is: names, ids, keys, files. */
#ifndef IDENTITY_H
#define IDENTITY_H

#include "agent.h"

/* Each returns 0, or -1 with errno. */
int set_hostname(const char *name);
int set_machine_id(const char *id);
int set_boot_id(const char *id);
/*
 * Has the boot id come from a file from now on, which says the same: a wake then only writes to it, and init, which looks at
 * every change of mounts, has done so before.
 */
void cover_boot_id(void);
/* Reads what a wake writes to: the guest's disk is as slow as ever then, and nothing else is left to wait for. */
void read_identity(void);
int add_authorized_key(const char *line);
/* Takes `path NUL mode NUL content`. */
int place_file(const struct field *);
/* Host keys of the guest's before, other than those that were just placed. @returns how many are gone */
int remove_old_host_keys(void);
/* What the next boot seeds itself with, where there is such a file. @returns how many were written, -1 with errno */
int renew_random_seeds(void);

#endif
