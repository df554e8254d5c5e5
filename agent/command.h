/* A command as the host describes it, made ready to be begun. */
#ifndef COMMAND_H
#define COMMAND_H

#include "agent.h"
#include <sys/ioctl.h>

struct command {
  /* ends with NULL */
  char **argv;
  size_t count;
  char **environment;
  size_t variables;
  char *directory, *user, *script, *term;
  int has_terminal;
  struct winsize size;
  /* of the user */
  uid_t uid;
  gid_t gid;
  char *home, *shell;
};

/* @returns NULL, or what is wrong with it; free_command() in either case */
const char *read_command(struct command *, const uint8_t *payload, size_t length);
void free_command(struct command *);

/* In the child: becomes the user and the program. Returns with errno when that did not work, and says what. */
const char *run_command(struct command *);

#endif
