/** Lists that people keep in files: one item a line. */

/** Items in the order they first appear: spaces trimmed, comments, blank lines and repetitions left out. */
export function normalizedLines(text: string): string[] {
  const lines = text
    .replace(/^\uFEFF/, '')
    .split(/\r\n|\r|\n/)
    .map((line) => line.replace(/(^|\s)#.*$/, '').trim())
    .filter((line) => line !== '');
  return [...new Set(lines)];
}
