/** How much is in a document from elsewhere, before it is made into values: each of them takes up to a hundred times its text. */

/** More than any document here has: 8 MiB of sums of disks, or an index of 10,000 manifests. */
const MAX_VALUES = 200_000;

const [QUOTE, BACKSLASH, COMMA, LIST, OBJECT] = ['"', '\\', ',', '[', '{'].map((sign) => sign.charCodeAt(0));

/**
 * Whether a JSON text has more values than any that is right. Reading lists in lists takes 250 bytes for each, and saying what is
 * wrong with a value a kilobyte; four megabytes of text can hold two million. Counted by commas and brackets, so never too few.
 */
export function isVast(text: string, max = MAX_VALUES): boolean {
  let values = 1;
  let quoted = false;
  for (let at = 0; at < text.length; at++) {
    const sign = text.charCodeAt(at);
    if (sign === QUOTE) quoted = !quoted;
    else if (quoted) at += sign === BACKSLASH ? 1 : 0;
    else if (sign === COMMA || sign === LIST || sign === OBJECT) values += 1;
    if (values > max) return true;
  }
  return false;
}
