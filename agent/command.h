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
  /*
   * The arguments of the script end in a command that may be run without the shell where that would read nothing: before it
   * there may be a directory to enter, and `env` with so many assignments.
   */
  int may_be_plain, enters;
  uint32_t assignments;
  /* that command, the directory it begins in, and what it has around it; NULL where the shell is needed */
  char **plain, *plain_directory, **plain_environment;
  size_t plain_variables;
  /* of the user */
  uid_t uid;
  gid_t gid;
  char *home, *shell;
};

/* @returns NULL, or what is wrong with it; free_command() in either case */
const char *read_command(struct command *, const uint8_t *payload, size_t length);
void free_command(struct command *);

/* What is written about the way a command begins, before it does: without the shell, and that this did not work. */
#define BEGINS_PLAIN 'p'
#define BEGINS_SHELL 's'

/* In the child: becomes the user and the program. Returns with errno when that did not work, and says what. */
const char *run_command(struct command *, int report);

#endif
