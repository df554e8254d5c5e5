/** What an operation has said, within a limit of bytes: the oldest output goes first, its steps and warnings stay. */
import type { OperationEvent } from '../api/operation.ts';

export interface OperationEvents {
  readonly bytes: number;
  /** Adds an event, and takes the place of the one before it when both only say how far a step is. */
  push(event: OperationEvent): void;
  /** The first event after a place; places begin at 0. */
  next(place: number): { event: OperationEvent; place: number } | undefined;
  /** Keeps what was said last, in at most so many bytes; says at its place that there was more. */
  shrink(limitBytes: number): void;
}

interface Entry {
  event: OperationEvent;
  bytes: number;
  place: number;
}

/** An event without its text: three objects and a place in two lists. */
const ENTRY_BYTES = 200;

/** How much is left of what grew too large: making room for every single line would cost more than the line. */
const KEPT_SHARE = 0.75;

export function createOperationEvents(limitBytes: number): OperationEvents {
  let entries: Entry[] = [];
  let bytes = 0;
  let lastPlace = 0;
  let droppedLines = 0;
  /** place of the last line that was dropped; the note that stands for all of them is read there */
  let droppedUpTo = 0;

  function shrink(limit: number): void {
    if (bytes <= limit) return;
    const kept: Entry[] = [];
    const target = limit * KEPT_SHARE;
    for (const entry of entries) {
      const droppable = entry.event.type === 'log' || entry.event.type === 'progress';
      if (!droppable || bytes <= target) {
        kept.push(entry);
        continue;
      }
      bytes -= entry.bytes;
      if (entry.event.type !== 'log') continue;
      droppedLines++;
      droppedUpTo = entry.place;
    }
    entries = kept;
  }

  return {
    get bytes() {
      return bytes;
    },
    push(event) {
      const last = entries.at(-1);
      if (event.type === 'progress' && last?.event.type === 'progress') {
        entries.pop();
        bytes -= last.bytes;
      }
      const entry = { event, bytes: ENTRY_BYTES + textBytes(event), place: ++lastPlace };
      entries.push(entry);
      bytes += entry.bytes;
      shrink(limitBytes);
    },
    next(place) {
      const at = firstAfter(entries, place);
      const entry = entries[at];
      if (place < droppedUpTo && (!entry || entry.place > droppedUpTo)) {
        const line = `[${droppedLines} ${droppedLines === 1 ? 'line is' : 'lines are'} no longer kept]`;
        return { event: { type: 'log', line, atMs: atMsOf(entry?.event) }, place: droppedUpTo };
      }
      return entry && { event: entry.event, place: entry.place };
    },
    shrink,
  };
}

/** Index of the first entry after a place, by halving. */
function firstAfter(entries: readonly Entry[], place: number): number {
  let low = 0;
  let high = entries.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if ((entries[middle]?.place ?? 0) > place) high = middle;
    else low = middle + 1;
  }
  return low;
}

function textBytes(event: OperationEvent): number {
  switch (event.type) {
    case 'log':
      return 2 * event.line.length;
    case 'warning':
      return 2 * event.message.length;
    case 'step':
      return 2 * (event.step.length + event.label.length);
    case 'progress':
      return 2 * (event.label.length + (event.detail?.length ?? 0));
    case 'done':
      return 2 * JSON.stringify(event.operation).length;
  }
}

function atMsOf(event: OperationEvent | undefined): number {
  return event && 'atMs' in event ? event.atMs : 0;
}
