/**
 * Operations as they run, a line each: spinner, current step, bar where the end is known, time so far.
 * log-update keeps the lines in place; this file only says what stands in them.
 */
import { createLogUpdate } from 'log-update';
import { formatDuration } from '../../units.ts';
import type { Output } from '../terminal.ts';
import type { Paint } from './paint.ts';
import { plainLine } from './plain-text.ts';
import { fractionOf, type Progress, type ProgressView } from './progress.ts';

export interface LiveOptions {
  paint: Paint;
  /** whether the terminal shows more than ASCII */
  unicode: boolean;
  now?: () => number;
}

interface Task {
  label: string;
  startedAt: number;
  text: string;
  progress: Progress | undefined;
  /** last line of output in this step */
  line: string;
  /** last lines of output in all steps, to explain a failure */
  lines: string[];
}

/** Fast enough to look alive, slow enough to cost nothing. */
const FRAME_MS = 100;
const BAR_COLUMNS = 20;
const KEPT_LINES = 15;
const GLYPHS = {
  unicode: { spinner: [...'⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏'], full: '━', empty: '─' },
  ascii: { spinner: [...'|/-\\'], full: '#', empty: '-' },
};

export function createLiveView(output: Output, options: LiveOptions): ProgressView {
  const now = options.now ?? (() => performance.now());
  const glyphs = options.unicode ? GLYPHS.unicode : GLYPHS.ascii;
  const screen = createLogUpdate(output);
  const tasks = new Set<Task>();
  let timer: NodeJS.Timeout | undefined;
  let frame = 0;

  return {
    begin(label) {
      const task: Task = { label, startedAt: now(), text: '', progress: undefined, line: '', lines: [] };
      tasks.add(task);
      timer ??= setInterval(nextFrame, FRAME_MS);
      draw();
      return {
        step(text) {
          task.text = text;
          task.progress = undefined;
          task.line = '';
          draw();
        },
        progress(progress) {
          task.text = progress.label;
          task.progress = progress;
        },
        log(line) {
          task.line = line.trim();
          task.lines = [...task.lines, line].slice(-KEPT_LINES);
        },
        warn: (message) => writeAbove(`${label}: ${options.paint('yellow', 'warning:')} ${message}`),
        fail() {
          for (const line of task.lines) writeAbove(options.paint('dim', `  ${line}`));
        },
        end() {
          tasks.delete(task);
          if (tasks.size > 0) draw();
          else stop();
        },
      };
    },
    clear: () => screen.clear(),
    close: stop,
  };

  function nextFrame(): void {
    frame += 1;
    draw();
  }

  function draw(): void {
    screen([...tasks].map(lineOf).join('\n'));
  }

  function stop(): void {
    clearInterval(timer);
    timer = undefined;
    screen.clear();
    screen.done();
  }

  function writeAbove(text: string): void {
    screen.clear();
    output.write(`${text}\n`);
    draw();
  }

  function lineOf(task: Task): string {
    const spinner = glyphs.spinner[frame % glyphs.spinner.length] ?? '';
    const time = elapsed(now() - task.startedAt);
    const fraction = task.progress && fractionOf(task.progress);
    const bar = fraction === undefined ? undefined : `${drawBar(fraction)} ${Math.round(fraction * 100)} %`;
    const detail = task.progress?.detail ?? task.line;
    const head = `${task.label}${task.text === '' ? '' : `: ${task.text}`}`;
    const tail = [bar, detail].filter((part) => part !== undefined && part !== '').join('  ');
    // room for spinner, time and the spaces between, so that a line stays one line
    const room = Math.max((output.columns ?? 80) - time.length - 6, 10);
    const shownHead = clip(head, room);
    const shownTail = clip(tail, room - shownHead.length - 2);
    const rest = shownTail === '' ? '' : `  ${options.paint('dim', shownTail)}`;
    return `${options.paint('cyan', spinner)} ${shownHead}${rest}  ${options.paint('dim', time)}`;
  }

  function drawBar(fraction: number): string {
    const full = Math.round(fraction * BAR_COLUMNS);
    return glyphs.full.repeat(full) + glyphs.empty.repeat(BAR_COLUMNS - full);
  }
}

/** Time so far, always with its tenths below a minute so that the line does not jump. */
function elapsed(ms: number): string {
  return ms < 60_000 ? `${(ms / 1000).toFixed(1)} s` : formatDuration(ms);
}

/** A status line is one line. */
function clip(text: string, columns: number): string {
  const plain = plainLine(text);
  if (plain.length <= columns) return plain;
  return columns < 2 ? '' : `${plain.slice(0, columns - 1)}~`;
}
