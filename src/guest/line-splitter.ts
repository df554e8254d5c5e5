/** Bytes of a guest's output to lines of text, bounded whatever the guest sends. */
import { StringDecoder } from 'node:string_decoder';

export interface LineSplitter {
  push(chunk: Buffer): void;
  /** Gives out a last line that has no end. */
  end(): void;
}

/** Longer lines are cut: a megabyte without a line break is no line for a person. */
const MAX_LINE_LENGTH = 2000;

/**
 * Calls `onLine` for each line without its end. A carriage return begins the line anew, as a terminal shows it,
 * and escape sequences are left out.
 */
export function createLineSplitter(onLine: (line: string) => void): LineSplitter {
  const decoder = new StringDecoder('utf8');
  let partial = '';
  const give = (line: string) => onLine(clean(line));
  return {
    push(chunk) {
      const lines = (partial + decoder.write(chunk)).split('\n');
      partial = (lines.pop() ?? '').slice(0, MAX_LINE_LENGTH);
      for (const line of lines) give(line);
    },
    end() {
      const last = partial + decoder.end();
      partial = '';
      if (last !== '') give(last);
    },
  };
}

// biome-ignore lint/suspicious/noControlCharactersInRegex: terminal control is what is taken out
const CONTROL = /\x1b(\[[0-9;?]*[ -/]*[@-~]|[@-_])|[\x00-\x08\x0b-\x1f\x7f]/g;

function clean(line: string): string {
  // a guest can send a million of them in a moment
  if (line === '') return line;
  let end = line.length;
  while (line[end - 1] === '\r') end--;
  const shown = line.slice(line.lastIndexOf('\r', end - 1) + 1, end);
  return shown.replace(CONTROL, '').slice(0, MAX_LINE_LENGTH);
}
