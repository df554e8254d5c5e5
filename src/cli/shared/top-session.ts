/** `banger top` on a terminal: takes the whole screen, listens to keys, and gives everything back. */
import { emitKeypressEvents } from 'node:readline';
import type { StatsFrame } from '../../api/stats.ts';
import type { Paint } from '../output/paint.ts';
import { plainData } from '../output/plain-text.ts';
import { pageSize, renderTop, type ScreenSize, type SortKey, type TopState } from '../output/top-view.ts';
import type { Input, Output } from '../terminal.ts';

const ENTER_SCREEN = '\u001b[?1049h\u001b[?25l';
const LEAVE_SCREEN = '\u001b[?25h\u001b[?1049l';
const HOME = '\u001b[H';
const CLEAR_LINE = '\u001b[K';
const CLEAR_BELOW = '\u001b[J';

const SORT_KEYS: Record<string, SortKey> = { c: 'cpu', m: 'memory', d: 'disk', n: 'network', a: 'name' };
/** In the order in which the left and right arrows go through them. */
const SORT_ORDER: readonly SortKey[] = ['name', 'cpu', 'memory', 'disk', 'network'];

interface Key {
  name?: string;
  ctrl?: boolean;
}

export interface TopTerminal {
  stdin: Input;
  stdout: Output;
  paint: Paint;
}

/**
 * Shows frames until they end, `leave` is aborted, or somebody presses q.
 * @param leave aborted by this function when the user wants to go
 */
export async function runTop(
  { stdin, stdout, paint }: TopTerminal,
  frames: AsyncIterable<StatsFrame>,
  leave: AbortController,
): Promise<void> {
  let state: TopState | undefined;
  const size = (): ScreenSize => ({ columns: stdout.columns || 80, rows: stdout.rows || 24 });

  const draw = () => {
    if (!state) return;
    const lines = renderTop(state, size(), paint).map((line) => `${line}${CLEAR_LINE}`);
    stdout.write(`${HOME}${lines.join('\r\n')}${CLEAR_BELOW}`);
  };
  const change = (part: Partial<TopState>) => {
    if (!state) return;
    state = { ...state, ...part };
    const last = Math.max(state.frame.vms.length - pageSize(size()), 0);
    state.offset = Math.min(Math.max(state.offset, 0), last);
    draw();
  };
  const onKey = (_text: string | undefined, { name = '', ctrl = false }: Key) => {
    if (name === 'q' || name === 'escape' || (ctrl && name === 'c')) return leave.abort();
    if (ctrl || !state) return;
    const sort = SORT_KEYS[name];
    if (sort) change({ sort, reversed: false, offset: 0 });
    else if (name === 'r') change({ reversed: !state.reversed });
    else if (name === 'left' || name === 'right') change({ sort: neighbour(state.sort, name), reversed: false });
    else change({ offset: scrolled(state.offset, name, pageSize(size())) });
  };
  const onResize = () => change({});
  const onEnd = () => leave.abort();

  emitKeypressEvents(stdin);
  stdin.setRawMode?.(true);
  stdin.on('keypress', onKey).once('end', onEnd).resume();
  stdout.on('resize', onResize);
  stdout.write(ENTER_SCREEN);
  try {
    for await (const frame of frames) {
      state = { sort: 'cpu', reversed: false, offset: 0, ...state, previous: state?.frame, frame: plainData(frame) };
      change({});
    }
  } finally {
    stdout.write(LEAVE_SCREEN);
    stdout.off('resize', onResize);
    stdin.off('keypress', onKey).off('end', onEnd).pause();
    stdin.setRawMode?.(false);
  }
}

function neighbour(sort: SortKey, direction: 'left' | 'right'): SortKey {
  const index = SORT_ORDER.indexOf(sort) + (direction === 'right' ? 1 : -1);
  return SORT_ORDER[Math.min(Math.max(index, 0), SORT_ORDER.length - 1)] ?? sort;
}

function scrolled(offset: number, key: string, page: number): number {
  const steps: Record<string, number> = { up: -1, down: 1, pageup: -page, pagedown: page, home: -offset };
  return key === 'end' ? Number.MAX_SAFE_INTEGER : offset + (steps[key] ?? 0);
}
