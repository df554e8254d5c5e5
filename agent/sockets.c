/* Connections that must not live on in a copy of a guest: TCP connections from its old address, and SSH sessions. */
#include "sockets.h"
#include "agent.h"
#include "cgroups.h"
#include "kernel.h"
#include "processes.h"
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

/* of one machine: containers may have their own */
#define MAX_SERVERS 256

#define ALL_STATES_BUT_LISTEN (0xfffu & ~(1u << TCP_LISTEN))

struct diag_ask {
  struct netlink_header header;
  struct diag_request request;
};

struct found {
  const struct ip_address *addresses;
  int address_count;
  struct diag_message *sockets;
  size_t count, room;
};

static void load_module(const char *path) {
  int file = open(path, O_RDONLY | O_CLOEXEC);
  if (file < 0) return;
  /* one that is there already is refused */
  syscall(SYS_finit_module, file, "", 0);
  close(file);
}

/* Once: a kernel reads the whole file before it says that it has it. */
void load_diag_modules(void) {
  static int loaded;
  if (loaded) return;
  loaded = 1;
  load_module(RUN_DIRECTORY "/modules/inet_diag.ko");
  load_module(RUN_DIRECTORY "/modules/tcp_diag.ko");
}

static int is_ours(const struct found *found, const struct diag_message *socket) {
  static const uint8_t mapped[12] = {[10] = 0xff, [11] = 0xff};
  const uint8_t *source = (const uint8_t *)socket->id.source;
  for (int at = 0; at < found->address_count; at++) {
    const struct ip_address *address = &found->addresses[at];
    size_t size = address->family == AF_INET ? 4 : 16;
    if (socket->family == address->family && memcmp(source, address->bytes, size) == 0) return 1;
    if (socket->family == AF_INET6 && address->family == AF_INET && memcmp(source, mapped, sizeof mapped) == 0 &&
        memcmp(source + 12, address->bytes, 4) == 0)
      return 1;
  }
  return 0;
}

static int one_socket(void *owner, uint16_t type, const uint8_t *body, size_t length) {
  struct found *found = owner;
  struct diag_message socket;
  if (type != SOCK_DIAG_BY_FAMILY || length < sizeof socket) return 0;
  memcpy(&socket, body, sizeof socket);
  if (socket.state == TCP_LISTEN || !is_ours(found, &socket)) return 0;
  if (found->count == found->room) {
    found->room = found->room * 2 + 64;
    found->sockets = realloc(found->sockets, found->room * sizeof *found->sockets);
    if (!found->sockets) die("memory");
  }
  found->sockets[found->count++] = socket;
  return 0;
}

static void begin_ask(struct diag_ask *ask, uint16_t type, uint16_t flags, uint8_t family) {
  memset(ask, 0, sizeof *ask);
  ask->header.length = sizeof *ask;
  ask->header.type = type;
  ask->header.flags = (uint16_t)(NLM_F_REQUEST | flags);
  ask->request.family = family;
  ask->request.protocol = IPPROTO_TCP;
  ask->request.states = ALL_STATES_BUT_LISTEN;
}

int destroy_connections(const struct ip_address *addresses, int count) {
  load_diag_modules();
  int fd = netlink_open(NETLINK_SOCK_DIAG);
  if (fd < 0) return -1;
  struct found found = {.addresses = addresses, .address_count = count};
  struct diag_ask ask;
  int destroyed = 0;
  static const uint8_t families[] = {AF_INET, AF_INET6};
  for (size_t at = 0; at < sizeof families && destroyed == 0; at++) {
    begin_ask(&ask, SOCK_DIAG_BY_FAMILY, NLM_F_DUMP, families[at]);
    if (netlink_ask(fd, &ask, one_socket, &found) < 0 && families[at] == AF_INET) destroyed = -1;
  }
  for (size_t at = 0; at < found.count && destroyed >= 0; at++) {
    begin_ask(&ask, SOCK_DESTROY, NLM_F_ACK, found.sockets[at].family);
    ask.request.id = found.sockets[at].id;
    if (netlink_ask(fd, &ask, NULL, NULL) == 0 || errno == ENOENT) destroyed++;
    else destroyed = -1;
  }
  int failed = errno;
  free(found.sockets);
  close(fd);
  errno = failed;
  return destroyed;
}

/* Programs of OpenSSH: one that serves, or, beneath another, a session (a program of its own in newer ones). */
static int is_sshd(const char *program) {
  const char *name = strrchr(program, '/');
  name = name ? name + 1 : program;
  return strcmp(name, "sshd") == 0 || strcmp(name, "sshd-session") == 0 || strcmp(name, "sshd-auth") == 0;
}

/* Looking at so many numbers takes longer than a look at all processes. */
#define MOST_SINCE 64

/* what there was when all stood still, and the last process of that moment; 0 when that was never looked for */
static struct processes noted;
static pid_t noted_until;

void note_ssh(void) {
  free(noted.list);
  noted_until = last_process();
  list_programs(&noted, is_sshd);
}

/* @returns whether what was noted says all */
static int recall_ssh(struct processes *all) {
  pid_t last = noted_until > 0 ? last_process() : -1;
  *all = (struct processes){0};
  if (last < noted_until || last > noted_until + MOST_SINCE) return 0;
  for (size_t at = 0; at < noted.count; at++) add_program(all, noted.list[at].pid, is_sshd);
  for (pid_t pid = noted_until + 1; pid <= last; pid++) add_program(all, pid, is_sshd);
  return 1;
}

/* servers that were found beside the sessions that were ended last */
static pid_t servers[MAX_SERVERS];
static int server_count;

int end_ssh_sessions(void) {
  struct processes all;
  int ended = 0;
  server_count = 0;
  if (!recall_ssh(&all)) list_programs(&all, is_sshd);
  noted_until = 0;
  for (size_t at = 0; at < all.count; at++) {
    pid_t pid = all.list[at].pid;
    if (!find_process(&all, all.list[at].parent)) {
      if (server_count < MAX_SERVERS) servers[server_count++] = pid;
    } else if (kill(pid, SIGKILL) == 0) ended++;
  }
  free(all.list);
  return ended;
}

/* of the servers of systemd's guests, and of nothing else there */
static const char *const ssh_groups[] = {GROUPS "/system.slice/ssh.service/cgroup.freeze",
                                         GROUPS "/system.slice/sshd.service/cgroup.freeze"};

void hold_ssh_servers(void) {
  char text[16];
  for (size_t at = 0; at < sizeof ssh_groups / sizeof *ssh_groups; at++)
    if (read_file(ssh_groups[at], text, sizeof text) > 0 && text[0] == '0') write_text(ssh_groups[at], "1");
}

void let_ssh_servers_go(void) {
  for (size_t at = 0; at < sizeof ssh_groups / sizeof *ssh_groups; at++) write_text(ssh_groups[at], "0");
}

int reload_ssh_servers(void) {
  int told = 0;
  for (int at = 0; at < server_count; at++)
    if (kill(servers[at], SIGHUP) == 0) told++;
  server_count = 0;
  return told;
}
