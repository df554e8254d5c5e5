/** Where running operations are shown: live on a terminal, line by line elsewhere, nowhere with --quiet. */
import type { Host } from '../terminal.ts';
import type { Paint } from './paint.ts';
import type { ProgressView, TaskView } from './progress.ts';

export async function createView(host: Host, options: { quiet: boolean; paint: Paint }): Promise<ProgressView> {
  if (options.quiet) return silentView;
  if (host.stderr.isTTY !== true || host.env.TERM === 'dumb') {
    const { createPlainView } = await import('./plain-progress.ts');
    return createPlainView((line) => host.stderr.write(`${line}\n`));
  }
  const { createLiveView } = await import('./live-progress.ts');
  return createLiveView(host.stderr, { paint: options.paint, unicode: speaksUnicode(host.env) });
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
