/**
 * Text from outside, made fit for a terminal. Guests, archives, recipes and the daemon's answers may hold what moves
 * the cursor, changes the title, fills the clipboard, or turns the order of letters round.
 */
import type { TaskView } from './progress.ts';

/** Whole control sequences (ECMA-48 CSI), which say nothing to a reader. */
// biome-ignore lint/suspicious/noControlCharactersInRegex: control characters are what is taken out
const SEQUENCES = /(?:\x1b\[|\x9b)[0-9:;<=>?]{0,64}[ -/]{0,8}[@-~]/g;

/** What `paint` writes, and nothing else. */
// biome-ignore lint/suspicious/noControlCharactersInRegex: see above
const PAINTED = /(\x1b\[(?:1|2|22|31|32|33|36|39)m)/;

/**
 * Control characters of both sets but line breaks and tabs; marks that reorder text (Unicode TR9) or break lines; what
 * cannot be seen at all (byte order mark, annotations, tags).
 */
const UNPRINTABLE =
  // biome-ignore lint/suspicious/noControlCharactersInRegex: see above
  /[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u206f\ufeff\ufff9-\ufffb\u{e0000}-\u{e007f}]/gu;

/** The text with line breaks and tabs, and a question mark for each character that would do more than be read. */
export function plainText(text: string): string {
  return text.replaceAll('\r\n', '\n').replace(SEQUENCES, '').replace(UNPRINTABLE, '?');
}

/** Plain text on one line. */
export function plainLine(text: string): string {
  return plainText(text).replace(/[\n\t]/g, ' ');
}

/** Plain text that keeps the colours of `paint`; what is painted has been made plain before. */
export function plainPainted(text: string): string {
  return text
    .split(PAINTED)
    .map((part, index) => (index % 2 === 1 ? part : plainText(part)))
    .join('');
}

/** The same JSON, whose texts hold no such character as it is: programs read what they always read. */
export function plainJson(json: string): string {
  return json.replace(UNPRINTABLE, (character) =>
    Array.from({ length: character.length }, (_, index) => character.charCodeAt(index))
      .map((unit) => `\\u${unit.toString(16).padStart(4, '0')}`)
      .join(''),
  );
}

/** A value as the daemon sends it, with every text in it made plain; keys too. */
export function plainData<T>(value: T): T {
  return plainValue(value) as T;
}

function plainValue(value: unknown): unknown {
  if (typeof value === 'string') return plainText(value);
  if (Array.isArray(value)) return value.map(plainValue);
  if (typeof value !== 'object' || value === null || !isRecord(value)) return value;
  return Object.fromEntries(Object.entries(value).map(([key, one]) => [plainText(key), plainValue(one)]));
}

/** Other objects, such as maps and classes, are made by the command line itself. */
function isRecord(value: object): boolean {
  const prototype: unknown = Object.getPrototypeOf(value);
  return prototype === Object.prototype || prototype === null;
}

/** A view of an operation that is told plain text only. */
export function plainTask(task: TaskView): TaskView {
  return {
    step: (text) => task.step(plainLine(text)),
    progress: (progress) => task.progress(plainData(progress)),
    log: (line) => task.log(plainText(line)),
    warn: (message) => task.warn(plainText(message)),
    fail: () => task.fail(),
    end: () => task.end(),
  };
}
