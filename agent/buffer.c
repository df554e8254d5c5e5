/* Bytes on their way: a queue that grows, and keeps no memory while it is empty. */
#include "agent.h"
#include <stdlib.h>
#include <string.h>

size_t buffer_length(const struct buffer *buffer) { return buffer->to - buffer->from; }

const uint8_t *buffer_start(const struct buffer *buffer) {
  return buffer->bytes ? buffer->bytes + buffer->from : NULL;
}

uint8_t *buffer_room(struct buffer *buffer, size_t length) {
  if (buffer->room - buffer->to < length) {
    if (buffer->from > 0) memmove(buffer->bytes, buffer->bytes + buffer->from, buffer_length(buffer));
    buffer->to = buffer_length(buffer);
    buffer->from = 0;
  }
  if (buffer->room - buffer->to < length) {
    size_t room = buffer->to + length + 1024;
    if (room < buffer->room + buffer->room / 2) room = buffer->room + buffer->room / 2;
    buffer->bytes = realloc(buffer->bytes, room);
    if (!buffer->bytes) die("memory");
    buffer->room = room;
  }
  return buffer->bytes + buffer->to;
}

void buffer_added(struct buffer *buffer, size_t length) { buffer->to += length; }

void buffer_append(struct buffer *buffer, const void *bytes, size_t length) {
  if (length == 0) return;
  memcpy(buffer_room(buffer, length), bytes, length);
  buffer_added(buffer, length);
}

void buffer_take(struct buffer *buffer, size_t length) {
  buffer->from += length;
  if (buffer->from == buffer->to) buffer_clear(buffer);
}

void buffer_clear(struct buffer *buffer) {
  free(buffer->bytes);
  memset(buffer, 0, sizeof *buffer);
}
