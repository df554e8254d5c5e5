/*
 * The way over one virtio-serial port, which is what fcqemu has instead of vsock: many streams in frames of their own, each
 * direction of a stream with a window (docs/fcqemu.md, "vsock"). Streams to other ports than ours are refused.
 */
#include "agent.h"
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define PORT_NAME "fcqemu.vsock\n"

enum operation { P_HELLO = 1, P_CONNECT, P_ACCEPT, P_RESET, P_DATA, P_FINISH, P_CREDIT, P_RESTORED };

#define PORT_PAYLOAD_BYTES (64u << 10)
#define PORT_WINDOW_BYTES (256u << 10)
/* what is put into frames ahead of the port taking it */
#define PORT_AHEAD_BYTES (128u << 10)

struct port_header {
  uint32_t operation, stream, argument, length;
};

static void flush_stream(struct link *link);
static void close_stream(struct link *link);
static const struct transport over_port = {flush_stream, close_stream};

static int port = -1;
static struct watch *port_watch;
static struct buffer outward, inward;

static void write_port(void) {
  while (buffer_length(&outward) > 0) {
    ssize_t length = write(port, buffer_start(&outward), buffer_length(&outward));
    if (length > 0) buffer_take(&outward, (size_t)length);
    else if (length == 0 || errno == EAGAIN) break;
    else if (errno != EINTR) die("writing to the port");
  }
  port_watch->events = buffer_length(&outward) > 0 ? POLLIN | POLLOUT : POLLIN;
}

static void say(enum operation operation, uint32_t stream, uint32_t argument, const void *payload, size_t length) {
  struct port_header header = {operation, stream, argument, (uint32_t)length};
  buffer_append(&outward, &header, sizeof header);
  buffer_append(&outward, payload, length);
}

static void flush_stream(struct link *link) {
  while (buffer_length(&link->out) > 0 && link->credit > 0 && buffer_length(&outward) < PORT_AHEAD_BYTES) {
    size_t length = buffer_length(&link->out);
    if (length > link->credit) length = link->credit;
    if (length > PORT_PAYLOAD_BYTES) length = PORT_PAYLOAD_BYTES;
    say(P_DATA, link->stream, 0, buffer_start(&link->out), length);
    buffer_take(&link->out, length);
    link->credit -= (uint32_t)length;
  }
  write_port();
}

static void close_stream(struct link *link) {
  say(P_RESET, link->stream, 0, NULL, 0);
  write_port();
}

static struct link *find_stream(uint32_t stream) {
  for (struct link *link = links; link; link = link->next)
    if (!link->gone && link->transport == &over_port && link->stream == stream) return link;
  return NULL;
}

static void connect_stream(uint32_t stream, uint32_t to) {
  struct link *link = to == AGENT_PORT && !find_stream(stream) ? open_link(&over_port, -1, stream) : NULL;
  if (!link) {
    say(P_RESET, stream, 0, NULL, 0);
    return;
  }
  link->credit = PORT_WINDOW_BYTES;
  say(P_ACCEPT, stream, 0, NULL, 0);
  greet(link);
}

static void receive(struct link *link, const uint8_t *payload, size_t length) {
  buffer_append(&link->in, payload, length);
  link->taken += (uint32_t)length;
  if (link->taken >= PORT_WINDOW_BYTES / 4) {
    say(P_CREDIT, link->stream, link->taken, NULL, 0);
    link->taken = 0;
  }
  link_received(link);
}

/* All that was before is gone: the machine was restored, or this begins. */
static void begin(void) {
  for (struct link *link = links; link; link = link->next)
    if (link->transport == &over_port) close_link(link);
  say(P_HELLO, 0, 0, NULL, 0);
}

static void handle(const struct port_header *header, const uint8_t *payload) {
  struct link *link = header->stream ? find_stream(header->stream) : NULL;
  switch (header->operation) {
  case P_CONNECT:
    connect_stream(header->stream, header->argument);
    break;
  case P_DATA:
    if (link) receive(link, payload, header->length);
    break;
  case P_RESET:
  case P_FINISH:
    if (link) close_link(link);
    break;
  case P_CREDIT:
    if (!link) break;
    link->credit = header->argument > UINT32_MAX - link->credit ? UINT32_MAX : link->credit + header->argument;
    flush_stream(link);
    break;
  case P_RESTORED:
    was_restored();
    begin();
    break;
  }
}

static void handle_all(void) {
  struct port_header header;
  while (buffer_length(&inward) >= sizeof header) {
    memcpy(&header, buffer_start(&inward), sizeof header);
    if (header.length > PORT_PAYLOAD_BYTES) {
      errno = EPROTO;
      die("a frame that is too long");
    }
    if (buffer_length(&inward) - sizeof header < header.length) return;
    handle(&header, buffer_start(&inward) + sizeof header);
    buffer_take(&inward, sizeof header + header.length);
  }
}

static void read_port(void) {
  for (;;) {
    ssize_t length = read(port, buffer_room(&inward, PORT_PAYLOAD_BYTES), PORT_PAYLOAD_BYTES);
    if (length > 0) {
      buffer_added(&inward, (size_t)length);
      handle_all();
      continue;
    }
    if (length < 0 && errno == EINTR) continue;
    if (length < 0 && errno != EAGAIN) die("reading the port");
    if (buffer_length(&inward) == 0) buffer_clear(&inward);
    if (length == 0) {
#ifdef FOR_TESTS
      exit(0);
#endif
      /* the host's end is closed for a moment; there is no event for its return */
      const struct timespec tenth = {.tv_nsec = 100000000};
      nanosleep(&tenth, NULL);
    }
    return;
  }
}

static void port_ready(void *owner, short seen) {
  (void)owner;
  if (seen & POLLOUT) {
    write_port();
    for (struct link *link = links; link; link = link->next) {
      if (link->gone || link->transport != &over_port) continue;
      flush_stream(link);
    }
  }
  if (seen & (POLLIN | POLLHUP | POLLERR)) read_port();
  for (struct link *link = links; link; link = link->next)
    if (!link->gone && link->transport == &over_port && !link_is_full(link)) resume_sessions(link);
  write_port();
}

/* The device whose name in sysfs is fcqemu's: /dev/virtio-ports/ exists only with udev. */
int open_port(void) {
  char path[300], name[64];
  int found = -1;
  DIR *directory = opendir("/sys/class/virtio-ports");
  if (!directory) return -1;
  for (struct dirent *entry; found < 0 && (entry = readdir(directory));) {
    snprintf(path, sizeof path, "/sys/class/virtio-ports/%s/name", entry->d_name);
    if (read_file(path, name, sizeof name) < 0 || strcmp(name, PORT_NAME) != 0) continue;
    snprintf(path, sizeof path, "/dev/%s", entry->d_name);
    found = open(path, O_RDWR | O_NONBLOCK | O_CLOEXEC);
  }
  closedir(directory);
  return found;
}

void use_port(int fd) {
  port = fd;
  port_watch = watch(fd, POLLIN, port_ready, NULL);
  begin();
  write_port();
}
