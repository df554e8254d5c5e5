/* Connections of the host, whatever carries them: frames in, frames out, and what is let go of when one ends. */
#include "agent.h"
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MAX_LINKS 32
/* with more than this on its way to the host no program is read from */
#define FULL_BYTES (256u << 10)

struct link *links;
static int link_count;

struct link *open_link(const struct transport *transport, int fd, uint32_t stream) {
  if (link_count == MAX_LINKS) return NULL;
  struct link *link = calloc(1, sizeof *link);
  if (!link) die("memory");
  link->transport = transport;
  link->fd = fd;
  link->stream = stream;
  link->next = links;
  links = link;
  link_count++;
  return link;
}

void link_received(struct link *link) {
  while (!link->gone && buffer_length(&link->in) >= sizeof(struct header)) {
    struct header header;
    memcpy(&header, buffer_start(&link->in), sizeof header);
    if (header.length > MAX_PAYLOAD_BYTES) {
      close_link(link);
      return;
    }
    if (buffer_length(&link->in) - sizeof header < header.length) return;
    handle_frame(link, &header, buffer_start(&link->in) + sizeof header);
    if (!link->gone) buffer_take(&link->in, sizeof header + header.length);
  }
}

void send_frame(struct link *link, uint32_t type, uint32_t channel, const void *payload, size_t length) {
  if (link->gone) return;
  struct header header = {type, channel, (uint32_t)length};
  buffer_append(&link->out, &header, sizeof header);
  buffer_append(&link->out, payload, length);
  link->transport->flush(link);
}

void send_fields(struct link *link, uint32_t type, uint32_t channel, const struct buffer *fields) {
  send_frame(link, type, channel, buffer_start(fields), buffer_length(fields));
}

void send_failure(struct link *link, uint32_t channel, const char *format, ...) {
  char text[1024];
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(text, sizeof text, format, arguments);
  va_end(arguments);
  struct buffer fields = {0};
  add_text(&fields, F_TEXT, text);
  send_fields(link, FAILED, channel, &fields);
  buffer_clear(&fields);
}

void close_link(struct link *link) {
  if (link->gone) return;
  link->gone = 1;
  forget_ready(link);
  forget_quiesce(link);
  forget_sessions(link);
  link->transport->close(link);
}

void free_links(void) {
  for (struct link **at = &links; *at;) {
    struct link *link = *at;
    if (link->gone) {
      *at = link->next;
      buffer_clear(&link->in);
      buffer_clear(&link->out);
      free(link);
      link_count--;
    } else {
      at = &link->next;
    }
  }
}

int link_is_full(const struct link *link) { return buffer_length(&link->out) > FULL_BYTES; }
