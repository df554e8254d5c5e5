/*
 * A command as the host describes it: whose it is, with which environment, through which shell. People's commands run as they
 * would over SSH: the user's login shell is given a script that ends in the command.
 */
#include "command.h"
#include "service.h"
#include "precedence.h"
#include <errno.h>
#include <grp.h>
#include <limits.h>
#include <pwd.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define ROOT_PATH "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
#define USER_PATH "/usr/local/bin:/usr/bin:/bin:/usr/games"
/* what a login is given by the system, each `NAME=VALUE` on a line */
static const char *const environment_files[] = {"/etc/environment", "/etc/default/locale"};
#define MAX_ENVIRONMENT_FILE (64u << 10)
/* tools that come with the initrd for images that lack them, behind all of the image's own */
#define TOOLS_PATH RUN_DIRECTORY "/bin"
#define TOOLS_SHELL TOOLS_PATH "/sh"
/* start-up files that bash reads for a command that came over SSH, and not otherwise */
#define BASH_START "[ -f /etc/bash.bashrc ] && . /etc/bash.bashrc; [ -f ~/.bashrc ] && . ~/.bashrc; "
#ifndef BASH_FOR_ALL
#define BASH_FOR_ALL "/etc/bash.bashrc"
#define BASH_FOR_ONE "/.bashrc"
#endif

static void add_string(char ***list, size_t *count, char *text) {
  *list = realloc(*list, (*count + 2) * sizeof **list);
  if (!*list || !text) die("memory");
  (*list)[(*count)++] = text;
  (*list)[*count] = NULL;
}

static char *join(const char *one, const char *two, const char *three) {
  size_t length = strlen(one) + strlen(two) + strlen(three) + 1;
  char *text = malloc(length);
  if (!text) die("memory");
  snprintf(text, length, "%s%s%s", one, two, three);
  return text;
}

/* `NAME=VALUE`, instead of an earlier one of that name; takes the text. */
static void set_in(char ***list, size_t *count, char *text) {
  size_t name = strcspn(text, "=") + 1;
  for (size_t at = 0; at < *count; at++)
    if (strncmp((*list)[at], text, name) == 0) {
      free((*list)[at]);
      (*list)[at] = text;
      return;
    }
  add_string(list, count, text);
}

static void set_variable(struct command *command, char *text) {
  set_in(&command->environment, &command->variables, text);
}

static void set_pair(struct command *command, const char *name, const char *value) {
  set_variable(command, join(name, "=", value));
}

static const char *read_one(struct command *command, const struct field *field) {
  uint32_t size[2];
  char *text = NULL;
  if (field->tag == F_PLAIN) {
    if (field->length != sizeof size) return "what may be left out of it";
    memcpy(size, field->bytes, sizeof size);
    command->may_be_plain = 1;
    command->enters = size[0] != 0;
    command->assignments = size[1];
    return NULL;
  }
  if (field->tag == F_TERMINAL) {
    if (field->length != sizeof size) return "the size of its terminal";
    memcpy(size, field->bytes, sizeof size);
    command->has_terminal = 1;
    command->size.ws_row = size[0] > USHRT_MAX ? USHRT_MAX : (unsigned short)size[0];
    command->size.ws_col = size[1] > USHRT_MAX ? USHRT_MAX : (unsigned short)size[1];
    return NULL;
  }
  text = field_text(field);
  if (!text) return "it has a zero byte in it";
  char **single = field->tag == F_DIRECTORY ? &command->directory
                  : field->tag == F_USER    ? &command->user
                  : field->tag == F_SCRIPT  ? &command->script
                  : field->tag == F_TERM    ? &command->term
                                            : NULL;
  if (field->tag == F_ARGUMENT) add_string(&command->argv, &command->count, text);
  else if (field->tag == F_ENVIRONMENT && strchr(text, '=') && text[0] != '=')
    add_string(&command->environment, &command->variables, text);
  else if (single && !*single) *single = text;
  else free(text);
  return NULL;
}

/* Lines of the form that PAM reads: `export` before, `#` and quotes around are allowed. */
static void read_environment_file(struct command *command, const char *path) {
  char *text = malloc(MAX_ENVIRONMENT_FILE), *rest = NULL;
  if (!text) die("memory");
  if (read_file(path, text, MAX_ENVIRONMENT_FILE) < 0) text[0] = 0;
  for (char *line = strtok_r(text, "\n", &rest); line; line = strtok_r(NULL, "\n", &rest)) {
    line += strspn(line, " \t");
    if (strncmp(line, "export ", 7) == 0) line += 7 + strspn(line + 7, " \t");
    char *value = strchr(line, '=');
    if (*line == '#' || !value || value == line) continue;
    *value++ = 0;
    value[strcspn(value, "#")] = 0;
    size_t length = strlen(value);
    while (length > 0 && (value[length - 1] == ' ' || value[length - 1] == '\t')) value[--length] = 0;
    if (length > 1 && (*value == '"' || *value == '\'') && value[length - 1] == *value) {
      value[length - 1] = 0;
      value++;
    }
    set_pair(command, line, value);
  }
  free(text);
}

static const char *find_user(struct command *command) {
  const char *name = command->user ? command->user : "root";
  struct passwd *found = getpwnam(name);
  if (found) {
    command->uid = found->pw_uid;
    command->gid = found->pw_gid;
    command->home = strdup(found->pw_dir && *found->pw_dir ? found->pw_dir : "/");
    command->shell = strdup(found->pw_shell && *found->pw_shell ? found->pw_shell : "/bin/sh");
  } else if (strcmp(name, "root") == 0) {
    /* an image need not have a list of users */
    command->home = strdup("/root");
    command->shell = strdup("/bin/sh");
  } else {
    return "there is no such user";
  }
  /* an image need not have a shell */
  if (command->shell && access(command->shell, X_OK) != 0 && access(TOOLS_SHELL, X_OK) == 0) {
    free(command->shell);
    command->shell = strdup(access("/bin/sh", X_OK) == 0 ? "/bin/sh" : TOOLS_SHELL);
  }
  if (!command->home || !command->shell) die("memory");
  return NULL;
}

/* The search path of before, with the tools at its end. */
static void add_tools(struct command *command) {
  if (access(TOOLS_PATH, X_OK) != 0) return;
  for (size_t at = 0; at < command->variables; at++)
    if (strncmp(command->environment[at], "PATH=", 5) == 0) {
      set_variable(command, join(command->environment[at], ":", TOOLS_PATH));
      return;
    }
}

/* What the image has around its process commands have too. */
static void add_image_environment(struct command *command) {
  struct service service;
  read_service(&service);
  for (size_t at = 0; at < service.variables; at++)
    if (strchr(service.environment[at], '=')) set_variable(command, strdup(service.environment[at]));
  free(service.argv);
  free(service.environment);
  free(service.text);
}

/* What a login has, then what was asked for. */
static void complete_environment(struct command *command) {
  char **asked = command->environment;
  size_t count = command->variables;
  command->environment = NULL;
  command->variables = 0;
  const char *name = command->user ? command->user : "root";
  set_pair(command, "USER", name);
  set_pair(command, "LOGNAME", name);
  set_pair(command, "HOME", command->home);
  set_pair(command, "PATH", command->uid == 0 ? ROOT_PATH : USER_PATH);
  set_pair(command, "SHELL", command->shell);
  for (size_t at = 0; at < sizeof environment_files / sizeof *environment_files; at++)
    read_environment_file(command, environment_files[at]);
  add_image_environment(command);
  add_tools(command);
  if (command->has_terminal) set_pair(command, "TERM", command->term && *command->term ? command->term : "xterm-256color");
  for (size_t at = 0; at < count; at++) set_variable(command, asked[at]);
  free(asked);
}

static int is_one_of(const char *name, const char *const *names) {
  for (; *names; names++)
    if (strcmp(name, *names) == 0) return 1;
  return 0;
}

/* In single quotes, as any shell reads them. */
static void add_quoted(struct buffer *text, const char *word) {
  buffer_append(text, " '", 2);
  for (const char *at = word; *at; at++) {
    if (*at == '\'') buffer_append(text, "'\\''", 4);
    else buffer_append(text, at, 1);
  }
  buffer_append(text, "'", 1);
}

/* A start-up file that has nothing to say to a command: missing, made of comments, or for terminals alone in its first words. */
static int is_inert(const char *path) {
  static const char *const guards[] = {"[ -z \"$PS1\" ] && return", "[ -z \"${PS1-}\" ] && return",
                                       "[[ $- != *i* ]] && return", NULL};
  static const char *const choice[] = {"case $- in", "*i*) ;;", "*) return;;", "esac"};
  char line[256];
  size_t chosen = 0;
  FILE *file = fopen(path, "re");
  if (!file) return errno == ENOENT;
  int inert = 1;
  while (fgets(line, sizeof line, file)) {
    char *text = line + strspn(line, " \t");
    size_t length = strcspn(text, "\n");
    /* cut off within a comment, what follows would be taken for the next line */
    if (text[length] == 0 && !feof(file)) inert = 0;
    while (length > 0 && (text[length - 1] == ' ' || text[length - 1] == '\t')) length--;
    text[length] = 0;
    if (inert && (length == 0 || *text == '#')) continue;
    if (inert && chosen == 0 && is_one_of(text, guards)) break;
    inert = inert && strcmp(text, choice[chosen]) == 0;
    if (!inert || ++chosen == sizeof choice / sizeof *choice) break;
  }
  inert = inert && !ferror(file) && (chosen == 0 || chosen == sizeof choice / sizeof *choice);
  fclose(file);
  return inert;
}

/* Whether the shell would only become the command: an emulated guest takes longer to begin it than to run most commands. */
static int needs_no_shell(const struct command *command) {
  static const char *const silent[] = {"sh", "dash", "ash", NULL};
  const char *name = strrchr(command->shell, '/');
  name = name ? name + 1 : command->shell;
  if (is_one_of(name, silent)) return 1;
  if (strcmp(name, "bash") != 0) return 0;
  for (size_t at = 0; at < command->variables; at++)
    if (strncmp(command->environment[at], "BASH_ENV=", 9) == 0) return 0;
  char *own = join(command->home, BASH_FOR_ONE, "");
  int inert = is_inert(BASH_FOR_ALL) && is_inert(own);
  free(own);
  return inert;
}

/* Finds the command in the arguments of the script, and what it would have around it. */
static void find_plain(struct command *command) {
  size_t before = (size_t)command->enters + (command->assignments > 0 ? (size_t)command->assignments + 1 : 0);
  if (!command->may_be_plain || command->has_terminal || before >= command->count || !needs_no_shell(command)) return;
  const char *directory = command->enters ? command->argv[0] : command->home;
  if (*directory != '/') return;
  for (size_t at = 0; at < command->variables; at++)
    add_string(&command->plain_environment, &command->plain_variables, strdup(command->environment[at]));
  command->plain_directory = strdup(directory);
  /* as a shell has it */
  set_in(&command->plain_environment, &command->plain_variables, join("PWD=", directory, ""));
  set_in(&command->plain_environment, &command->plain_variables, strdup("SHLVL=0"));
  for (size_t at = before - command->assignments; at < before; at++) {
    if (!strchr(command->argv[at], '=')) return;
    set_in(&command->plain_environment, &command->plain_variables, strdup(command->argv[at]));
  }
  size_t count = 0;
  for (size_t at = before; at < command->count; at++) add_string(&command->plain, &count, strdup(command->argv[at]));
}

/* The login shell with the script, which gets the arguments. One that speaks another language is given a `sh` to begin. */
static void enter_shell(struct command *command) {
  static const char *const known[] = {"sh", "bash", "dash", "ash", "ksh", "mksh", "zsh", NULL};
  const char *name = strrchr(command->shell, '/');
  name = name ? name + 1 : command->shell;
  char **argv = NULL;
  size_t count = 0;
  add_string(&argv, &count, strdup(name));
  add_string(&argv, &count, strdup("-c"));
  if (is_one_of(name, known)) {
    add_string(&argv, &count, join(strcmp(name, "bash") == 0 ? BASH_START : "", command->script, ""));
    add_string(&argv, &count, strdup(name));
    for (size_t at = 0; at < command->count; at++) add_string(&argv, &count, strdup(command->argv[at]));
  } else {
    struct buffer text = {0};
    buffer_append(&text, "exec sh -c", 10);
    add_quoted(&text, command->script);
    add_quoted(&text, "sh");
    for (size_t at = 0; at < command->count; at++) add_quoted(&text, command->argv[at]);
    buffer_append(&text, "", 1);
    add_string(&argv, &count, strdup((const char *)buffer_start(&text)));
    buffer_clear(&text);
  }
  for (size_t at = 0; at < command->count; at++) free(command->argv[at]);
  free(command->argv);
  command->argv = argv;
  command->count = count;
}

const char *read_command(struct command *command, const uint8_t *at, size_t left) {
  struct field field;
  int more;
  while ((more = next_field(&at, &left, &field)) != 0) {
    const char *wrong = more < 0 ? "its form" : read_one(command, &field);
    if (wrong) return wrong;
  }
  if (command->count == 0) return "there is nothing to run";
  const char *wrong = find_user(command);
  if (wrong) return wrong;
  complete_environment(command);
  if (command->script) {
    find_plain(command);
    enter_shell(command);
  }
  return NULL;
}

void free_command(struct command *command) {
  for (size_t at = 0; at < command->count; at++) free(command->argv[at]);
  for (size_t at = 0; at < command->variables; at++) free(command->environment[at]);
  for (size_t at = 0; at < command->plain_variables; at++) free(command->plain_environment[at]);
  for (char **word = command->plain; word && *word; word++) free(*word);
  free(command->plain);
  free(command->plain_environment);
  char *texts[] = {command->directory, command->user,  command->script,         command->term,
                   command->home,      command->shell, command->plain_directory};
  for (size_t at = 0; at < sizeof texts / sizeof *texts; at++) free(texts[at]);
  free(command->argv);
  free(command->environment);
}

static int become_user(const struct command *command) {
  if (geteuid() != 0) return 0; /* tests: there is nobody else to become */
  if (initgroups(command->user ? command->user : "root", command->gid) != 0) return -1;
  if (setgid(command->gid) != 0) return -1;
  return setuid(command->uid);
}

extern char **environ;

/* Returns when the shell has to try: it finds what is no program of its own, and says what is wrong as people know it. */
static void run_plain(const struct command *command, int report) {
  static const char plain = BEGINS_PLAIN, shell = BEGINS_SHELL;
  if (chdir(command->plain_directory) != 0) return;
  environ = command->plain_environment;
  take_place();
  if (write(report, &plain, 1) == 1) {
    execvp(command->plain[0], command->plain);
    if (write(report, &shell, 1) != 1) _exit(126);
  }
  if (chdir(command->home) != 0 && chdir("/") != 0) _exit(126);
}

const char *run_command(struct command *command, int report) {
  if (become_user(command) != 0) return "its user could not be taken on";
  if (chdir(command->home) != 0 && chdir("/") != 0) return "its home";
  if (command->directory && chdir(command->directory) != 0) return "its directory";
  if (command->plain) run_plain(command, report);
  take_place();
  /* execvp looks through the PATH of who calls it */
  environ = command->environment;
  if (command->script) execv(command->shell, command->argv);
  else execvp(command->argv[0], command->argv);
  return command->script ? command->shell : command->argv[0];
}
