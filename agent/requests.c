/* What the host asks, taken apart and given to whom it concerns; and the greeting, which is said first on every connection. */
#include "agent.h"
#include <stdlib.h>
#include <string.h>

#ifndef VERSION
#define VERSION "0"
#endif

/* an echo is small */
#define MAX_PING_BYTES 1024
/* what a quiesce may take when nothing is said */
#define QUIESCE_MS 10000

static const char *const features[] = {"ready", "quiesce", "wake-same", "wake-new", "exec", "terminal", "service", "plain", "grow-ext4"};

void greet(struct link *link) {
  struct buffer fields = {0};
  add_number(&fields, F_PROTOCOL, PROTOCOL);
  add_text(&fields, F_VERSION, VERSION);
  for (size_t at = 0; at < sizeof features / sizeof *features; at++) add_text(&fields, F_FEATURE, features[at]);
  if (frozen_token()) add_text(&fields, F_TOKEN, frozen_token());
  if (wake_generation()) add_text(&fields, F_GENERATION, wake_generation());
  send_fields(link, HELLO, 0, &fields);
  buffer_clear(&fields);
}

/* Token and limit of a request; both may be left out. @returns 0 when it is not made of fields */
static int read_token(const uint8_t *at, size_t left, char **token, uint32_t *limit_ms) {
  struct field field;
  int more;
  *token = NULL;
  while ((more = next_field(&at, &left, &field)) > 0) {
    if (field.tag == F_TOKEN && !*token) *token = field_text(&field);
    if (field.tag == F_LIMIT_MS) field_number(&field, limit_ms);
  }
  return more == 0;
}

static void ask_quiesce(struct link *link, uint32_t channel, const uint8_t *payload, size_t length) {
  uint32_t limit_ms = QUIESCE_MS;
  char *token;
  if (read_token(payload, length, &token, &limit_ms) && token && *token) quiesce(link, channel, token, limit_ms);
  else send_failure(link, channel, "the request to quiesce is malformed");
  free(token);
}

static void ask_thaw(struct link *link, uint32_t channel, const uint8_t *payload, size_t length) {
  uint32_t limit_ms = 0;
  char *token;
  if (!read_token(payload, length, &token, &limit_ms)) send_failure(link, channel, "the request to thaw is malformed");
  else if (!thaw(token)) send_failure(link, channel, "it was frozen under another token");
  else send_frame(link, DONE, channel, NULL, 0);
  free(token);
}

/* How the image's process does, in the words of who looks after it; nothing where nobody does. */
static void tell_service(struct link *link, uint32_t channel) {
  char text[1024];
  struct buffer fields = {0};
  if (read_file(RUN_DIRECTORY "/service-state", text, sizeof text) > 0) add_text(&fields, F_TEXT, text);
  send_fields(link, DONE, channel, &fields);
  buffer_clear(&fields);
}

void handle_frame(struct link *link, const struct header *header, const uint8_t *payload) {
  heard_of_host();
  uint32_t channel = header->channel;
  switch (header->type) {
  case PING:
    send_frame(link, DONE, channel, payload, header->length < MAX_PING_BYTES ? header->length : MAX_PING_BYTES);
    break;
  case READY:
    ask_ready(link, channel);
    break;
  case QUIESCE:
    ask_quiesce(link, channel, payload, header->length);
    break;
  case THAW:
    ask_thaw(link, channel, payload, header->length);
    break;
  case WAKE:
    wake(link, channel, payload, header->length);
    break;
  case SERVICE:
    tell_service(link, channel);
    break;
  case EXEC:
    exec_command(link, channel, payload, header->length);
    break;
  case STDIN:
  case STDIN_END:
  case CREDIT:
  case RESIZE:
  case SIGNAL:
  case CLOSE:
    /* for a command that has ended they come too late, which is no fault */
    exec_frame(link, header, payload);
    break;
  default:
    send_failure(link, channel, "this agent does not know requests of type %u", (unsigned)header->type);
  }
}
