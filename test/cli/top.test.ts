import assert from 'node:assert/strict';
import { PassThrough } from 'node:stream';
import { describe, it } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import type { StatsFrame, VmStats } from '../../src/api/stats.ts';
import { renderTop, type SortKey, type TopState, withRates } from '../../src/cli/output/top-view.ts';
import type { Output } from '../../src/cli/terminal.ts';
import { type CliResult, cli } from './cli.ts';
import { stats } from './sample-stats.ts';

const plain = (_: string, text: string) => text;
const frame = (second: number, ...vms: VmStats[]): StatsFrame => ({
  at: `2026-01-02T03:04:${String(second).padStart(2, '0')}.000Z`,
  vms,
});

const before = frame(0, stats('web'), stats('db'), stats('cache'));
const now = frame(
  2,
  stats('web', { cpuPercent: 5, rssBytes: 3 * 2 ** 20, diskWrittenBytes: 8192 + 2048, netReceivedBytes: 100 + 4096 }),
  stats('db', { cpuPercent: 90, rssBytes: 2 * 2 ** 20, diskWrittenBytes: 0 }),
  stats('cache', { cpuPercent: null, rssBytes: null, diskReadBytes: 4096 + 40_960 }),
);
const state = (values: Partial<TopState> = {}): TopState => ({
  frame: now,
  previous: before,
  sort: 'cpu',
  reversed: false,
  offset: 0,
  ...values,
});

/** Names from top to bottom. */
function names(lines: readonly string[]): string[] {
  return lines.slice(3, -1).flatMap((line) => /^\S+/.exec(line)?.[0] ?? []);
}

describe('the screen of top', () => {
  it('fills the terminal, and shows rates since the frame before', () => {
    const lines = renderTop(state(), { columns: 120, rows: 10 }, plain);
    assert.deepEqual(lines, [
      'banger top  03:04:02 UTC  3 VMs, 3 running  CPU 95.0 %  memory 5 MiB',
      '',
      'NAME   STATE    CPUv    MEMORY           IN GUEST          DISK I/O   NET IN   NET OUT  UPTIME',
      'db     running  90.0 %  2 MiB / 512 MiB  96 MiB / 488 MiB  -          0 B/s    0 B/s    1 m 2 s',
      'web    running  5.0 %   3 MiB / 512 MiB  96 MiB / 488 MiB  1 KiB/s    2 KiB/s  0 B/s    1 m 2 s',
      'cache  running  -       -                96 MiB / 488 MiB  20 KiB/s   0 B/s    0 B/s    1 m 2 s',
      '',
      '',
      '',
      'sort: c CPU  m memory  d disk  n network  a name  r reverse   arrows: scroll   q quit',
    ]);
  });

  it('sorts by what was asked for, the unknown last', () => {
    const orders: [SortKey, string[]][] = [
      ['cpu', ['db', 'web', 'cache']],
      ['memory', ['web', 'db', 'cache']],
      ['disk', ['cache', 'web', 'db']],
      ['network', ['web', 'cache', 'db']],
      ['name', ['cache', 'db', 'web']],
    ];
    for (const [sort, order] of orders) {
      const size = { columns: 120, rows: 10 };
      assert.deepEqual(names(renderTop(state({ sort }), size, plain)), order, sort);
      assert.deepEqual(names(renderTop(state({ sort, reversed: true }), size, plain)), order.toReversed(), sort);
    }
  });

  it('is never larger than the terminal, and says what is hidden', () => {
    const many = Array.from({ length: 30 }, (_, index) => stats(`vm-${String(index).padStart(2, '0')}`));
    for (const [columns, rows] of [
      [40, 10],
      [10, 3],
      [1, 1],
      [200, 60],
    ] as const) {
      const lines = renderTop(state({ frame: frame(3, ...many) }), { columns, rows }, plain);
      assert.equal(lines.length, rows);
      for (const line of lines) assert.ok(line.length <= columns, line);
    }
    const scrolled = state({ frame: frame(3, ...many), sort: 'name', offset: 4 });
    const lines = renderTop(scrolled, { columns: 120, rows: 10 }, plain);
    assert.deepEqual(names(lines), ['vm-04', 'vm-05', 'vm-06', 'vm-07', 'vm-08']);
    assert.match(lines.at(-1) ?? '', /^5-9 of 30 {3}sort: /);
  });

  it('knows no rate of a first frame, of a counter that began again, or of a VM that is new', () => {
    const rates = (vm: VmStats | undefined, previous?: StatsFrame) =>
      withRates(frame(2, vm ?? stats('web')), previous).map(({ receivedRate }) => receivedRate)[0];
    assert.equal(rates(stats('web')), null);
    assert.equal(rates(stats('web', { netReceivedBytes: 50 }), before), null);
    assert.equal(rates(stats('new'), before), null);
    assert.equal(rates(stats('web'), frame(2, stats('web'))), null, 'no time has passed');
    assert.equal(rates(stats('web', { netReceivedBytes: 300 }), before), 100);
  });
});

interface Session {
  type(keys: string): Promise<void>;
  resize(columns: number, rows: number): Promise<void>;
  /** what stands on the screen: the text since the last frame began, without control sequences */
  screen(): string[];
  raw: boolean[];
  ended: Promise<CliResult>;
  all(): string;
}

/** `banger top` on a terminal of this test, fed with frames without end. */
function session(frames: AsyncIterable<StatsFrame> | Iterable<StatsFrame>, values: NodeJS.ProcessEnv = {}): Session {
  const raw: boolean[] = [];
  const stdin = Object.assign(new PassThrough(), {
    isTTY: true,
    setRawMode: (mode: boolean) => raw.push(mode),
  });
  let text = '';
  let terminal: Output | undefined;
  const ended = cli(
    'top',
    { watchStats: () => frames },
    {
      terminal: true,
      stdin,
      env: { NO_COLOR: '1', ...values },
      onStdout(stdout) {
        terminal = stdout;
        const write = stdout.write.bind(stdout) as (chunk: string) => boolean;
        stdout.write = (chunk: string) => {
          text += chunk;
          return write(chunk);
        };
      },
    },
  );
  const settle = () => sleep(30);
  return {
    raw,
    ended,
    all: () => text,
    async type(keys) {
      stdin.write(keys);
      await settle();
    },
    async resize(columns, rows) {
      Object.assign(terminal ?? {}, { columns, rows });
      terminal?.emit('resize');
      await settle();
    },
    screen: () =>
      (text.split('\u001b[H').at(-1) ?? '')
        // biome-ignore lint/suspicious/noControlCharactersInRegex: control sequences are what is taken out
        .replace(/\u001b\[[0-9;?]*[A-Za-z]/g, '')
        .split('\r\n'),
  };
}

async function* endless(): AsyncGenerator<StatsFrame> {
  yield before;
  yield now;
  await new Promise(() => {});
}

describe('top on a terminal', () => {
  it('takes the whole screen, sorts by keys and arrows, resizes, and gives everything back at q', async () => {
    const top = session(endless());
    await sleep(200);
    assert.ok(top.all().startsWith('\u001b[?1049h\u001b[?25l'), 'another screen, no cursor');
    assert.equal(top.screen().length, 24);
    assert.deepEqual(names(top.screen()), ['db', 'web', 'cache']);
    await top.type('m');
    assert.deepEqual(names(top.screen()), ['web', 'db', 'cache']);
    await top.type('r');
    assert.deepEqual(names(top.screen()), ['cache', 'db', 'web']);
    await top.type('a');
    assert.deepEqual(names(top.screen()), ['cache', 'db', 'web']);
    await top.type('\u001b[C');
    assert.match(top.screen()[2] ?? '', /CPUv/, 'the right arrow goes to the next column');
    await top.type('\u001b[D');
    assert.match(top.screen()[2] ?? '', /NAMEv/);
    await top.resize(60, 6);
    assert.equal(top.screen().length, 6);
    assert.deepEqual(names(top.screen()), ['cache']);
    await top.type('\u001b[B');
    assert.deepEqual(names(top.screen()), ['db']);
    await top.type('\u001b[F');
    assert.deepEqual(names(top.screen()), ['web']);
    await top.type('q');
    const { status, stderr } = await top.ended;
    assert.deepEqual([status, stderr, top.raw], [0, '', [true, false]]);
    assert.ok(top.all().endsWith('\u001b[?25h\u001b[?1049l'), 'cursor and screen are back');
  });

  it('leaves at Ctrl-C, and when its input ends', async () => {
    for (const leave of [(top: Session) => top.type('\u0003'), (top: Session) => top.type('\u001b')]) {
      const top = session(endless());
      await sleep(100);
      await leave(top);
      assert.equal((await top.ended).status, 0);
    }
  });

  it('gives the screen back before it says that the daemon is gone', async () => {
    // biome-ignore lint/correctness/useYield: a stream that breaks
    async function* broken(): AsyncGenerator<StatsFrame> {
      throw new Error('ECONNRESET');
    }
    const top = session(broken());
    const { status, stderr } = await top.ended;
    assert.equal(status, 3);
    assert.equal(stderr, 'banger: The daemon went away.\n  try: banger daemon status\n');
    assert.ok(top.all().endsWith('\u001b[?25h\u001b[?1049l'));
    assert.deepEqual(top.raw, [true, false]);
  });

  it('points to stats --watch where it cannot draw', async () => {
    const expected = {
      status: 2,
      stdout: '',
      stderr: 'banger: There is no terminal here that banger top could draw on.\n  try: banger stats --watch\n',
    };
    assert.deepEqual(await cli('top', {}), expected);
    const dumb = await session(endless(), { TERM: 'dumb' }).ended;
    assert.deepEqual(dumb, expected);
  });
});
