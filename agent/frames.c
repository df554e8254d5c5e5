/* Fields of payloads: a tag, a length, bytes; numbers are little endian, as are all processors banger runs on. */
#include "agent.h"
#include <stdlib.h>
#include <string.h>

int next_field(const uint8_t **at, size_t *left, struct field *field) {
  if (*left == 0) return 0;
  if (*left < 8) return -1;
  memcpy(&field->tag, *at, 4);
  memcpy(&field->length, *at + 4, 4);
  if (field->length > *left - 8) return -1;
  field->bytes = *at + 8;
  *at += 8 + field->length;
  *left -= 8 + field->length;
  return 1;
}

char *field_text(const struct field *field) {
  if (field->length > 0 && memchr(field->bytes, 0, field->length)) return NULL;
  char *text = malloc((size_t)field->length + 1);
  if (!text) die("memory");
  memcpy(text, field->bytes, field->length);
  text[field->length] = 0;
  return text;
}

int field_number(const struct field *field, uint32_t *number) {
  if (field->length != 4) return 0;
  memcpy(number, field->bytes, 4);
  return 1;
}

void add_bytes(struct buffer *buffer, uint32_t tag, const void *bytes, size_t length) {
  uint32_t head[2] = {tag, (uint32_t)length};
  buffer_append(buffer, head, sizeof head);
  buffer_append(buffer, bytes, length);
}

void add_text(struct buffer *buffer, uint32_t tag, const char *text) { add_bytes(buffer, tag, text, strlen(text)); }

void add_number(struct buffer *buffer, uint32_t tag, uint32_t number) { add_bytes(buffer, tag, &number, 4); }
