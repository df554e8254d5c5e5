/* Connections of the guest that must not live on in a copy of it. */
#ifndef SOCKETS_H
#define SOCKETS_H

#include "netlink.h"

/* Looks for what sockets are found with, while the guest's disks may still be read. */
void load_diag_modules(void);
/*
 * Ends every TCP connection from one of these addresses; listeners stay. The programs see their connection aborted.
 * @returns how many, or -1 when this kernel cannot do that
 */
int destroy_connections(const struct ip_address *, int count);
/*
 * Looks for what SSH consists of while nothing of it can begin another program: whoever wakes the guest from then on has to
 * look at the processes alone that init began since.
 */
void note_ssh(void);
/* Ends the SSH sessions, not the servers, which it notes for the next call. @returns how many */
int end_ssh_sessions(void);
/* Makes every SSH server that was noted read its configuration and keys again. @returns how many */
int reload_ssh_servers(void);
/*
 * Lets them stand still when everything else goes on: nobody is offered the keys of before, and beginning anew, which takes an
 * emulated guest longer than most commands, waits until whoever woke it has had it.
 */
void hold_ssh_servers(void);
void let_ssh_servers_go(void);

#endif
