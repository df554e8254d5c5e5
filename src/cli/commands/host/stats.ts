/** `banger stats`: what VMs use, once or again and again. */
import { readLines } from '../../../client/watch.ts';
import { BangerError } from '../../../errors.ts';
import { formatDuration } from '../../../units.ts';
import { defineCommand } from '../../command.ts';
import type { Context } from '../../context.ts';
import { plainData } from '../../output/plain-text.ts';
import { renderStats } from '../../output/stats-table.ts';

/** The daemon takes no shorter one: a sample asks every guest. */
const MIN_INTERVAL_MS = 500;

export default defineCommand({
  positionals: ['[names...]'],
  options: {
    watch: { type: 'flag', short: 'w', help: 'again and again, until Ctrl-C; with --json a line each' },
    interval: { type: 'duration', help: 'time between two samples', default: '2s' },
  },
  completes: { names: ['vm'] },
  description:
    'CPU is the share of one host CPU, MEMORY what the VM takes of the host, IN GUEST what its programs use.\n' +
    'DISK is what the disks take of the host out of their size. Bytes are counted from the start of the VM.',
  examples: ['stats', 'stats web db --watch', "stats --json | jq '.[].cpuPercent'", 'stats -w --interval 10s --json'],
  async run(ctx, { args: { names }, options }) {
    const query = {
      ...(names.length > 0 ? { names: names.join(',') } : {}),
      ...(options.interval === undefined ? {} : { intervalMs: options.interval }),
    };
    if (!options.watch) return await ctx.api.call('listStats', { query });
    if (options.interval !== undefined && options.interval < MIN_INTERVAL_MS) {
      throw new BangerError('invalid_input', `--interval: ${formatDuration(options.interval)} is too short.`, {
        hint: `The shortest is ${formatDuration(MIN_INTERVAL_MS)}.`,
      });
    }
    await watch(ctx, query);
    return undefined;
  },
  print(vms, ctx) {
    if (vms === undefined) return '';
    for (const { name, problem } of vms) if (problem !== null) ctx.warn(`${name}: ${problem}`);
    if (vms.length > 0) return renderStats(vms, ctx.paint);
    ctx.talk('No VMs yet. Make one with: banger run NAME');
    return '';
  },
});

/** Until Ctrl-C, or until every VM that was named is deleted. */
async function watch(ctx: Context, query: { names?: string; intervalMs?: number }): Promise<void> {
  const leave = new AbortController();
  void ctx.interrupts().first.then(() => leave.abort());
  using show = await createShow(ctx);
  for await (const { at, vms } of readLines(ctx.api, 'watchStats', { query }, leave.signal)) {
    show.frame(ctx.json ? JSON.stringify({ at, vms }) : renderStats(plainData(vms), ctx.paint));
  }
}

/** On a terminal a frame takes the place of the one before; elsewhere they follow each other. */
async function createShow(ctx: Context): Promise<{ frame(text: string): void } & Disposable> {
  const { stdout, env } = ctx.terminal;
  if (ctx.json || stdout.isTTY !== true || env.TERM === 'dumb') {
    return { frame: (text) => ctx.print(ctx.json ? text : `${text}\n`), [Symbol.dispose]: () => {} };
  }
  const { createLogUpdate } = await import('log-update');
  const screen = createLogUpdate(stdout);
  return { frame: (text) => screen(text), [Symbol.dispose]: () => screen.done() };
}
