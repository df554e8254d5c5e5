/** Where running operations are shown: live on a terminal, line by line elsewhere, nowhere with --quiet. */
import type { Terminal } from '../terminal.ts';
import type { Paint } from './paint.ts';
import { plainLine, plainTask } from './plain-text.ts';
import type { ProgressView, TaskView } from './progress.ts';

export async function createView(terminal: Terminal, options: { quiet: boolean; paint: Paint }): Promise<ProgressView> {
  if (options.quiet) return silentView;
  if (terminal.stderr.isTTY !== true || terminal.env.TERM === 'dumb') {
    const { createPlainView } = await import('./plain-progress.ts');
    return toldPlainly(createPlainView((line) => terminal.stderr.write(`${line}\n`)));
  }
  const { createLiveView } = await import('./live-progress.ts');
  return toldPlainly(createLiveView(terminal.stderr, { paint: options.paint, unicode: speaksUnicode(terminal.env) }));
}

/** What operations say comes from guests and archives, too. */
function toldPlainly(view: ProgressView): ProgressView {
  return { ...view, begin: (label) => plainTask(view.begin(plainLine(label))) };
}

/** The locale decides; the Linux console has no glyphs for spinners whatever it says. */
function speaksUnicode(env: NodeJS.ProcessEnv): boolean {
  const locale = env.LC_ALL || env.LC_CTYPE || env.LANG || '';
  return /utf-?8/i.test(locale) && env.TERM !== 'linux';
}

const silentTask: TaskView = {
  step: () => {},
  progress: () => {},
  log: () => {},
  warn: () => {},
  fail: () => {},
  end: () => {},
};

const silentView: ProgressView = { begin: () => silentTask, clear: () => {}, close: () => {} };
