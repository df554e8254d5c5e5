import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { setTimeout as delay } from 'node:timers/promises';
import type { OperationEvent, Problem } from '../../src/api/operation.ts';
import { BangerError } from '../../src/errors.ts';
import { cli, done, operation, vm } from './cli.ts';

const step = (label: string): OperationEvent => ({ type: 'step', step: label, label, atMs: 1 });
const problem = (code: string, message: string): Problem => ({
  code,
  message,
  hint: 'banger doctor',
  type: 'about:blank',
  title: code,
  status: 500,
});

/** Events that wait for `gate` before the last one. */
function gated(first: OperationEvent[], gate: Promise<unknown>, last: OperationEvent) {
  return async function* () {
    yield* first;
    await gate;
    yield last;
  };
}

/** Signals for a command line: resolves once it runs. */
function signaller() {
  const { promise, resolve } = Promise.withResolvers<(signal: NodeJS.Signals) => void>();
  return { signals: resolve, sender: promise };
}

describe('a long action', () => {
  it('is told step by step on stderr, and its result on stdout', async () => {
    const { status, stdout, stderr } = await cli('start web', {
      startVm: () => operation(),
      events: {
        op1: [
          step('cloning root disk'),
          { type: 'progress', label: 'copying', done: 1, total: 4, detail: '1 of 4 GiB', atMs: 2 },
          { type: 'log', line: 'Booting Linux', atMs: 3 },
          { type: 'warning', message: 'no entropy device', atMs: 4 },
          step('waiting for SSH'),
          done({ result: vm('web') }),
        ],
      },
    });
    assert.equal(status, 0);
    assert.match(stdout, /^web is running at 172\.30\.0\.2 \(login after 6\.2 s, ready after 9\.1 s\)\n$/);
    assert.deepEqual(stderr.trimEnd().split('\n'), [
      'start web: cloning root disk',
      'start web: copying 25 % 1 of 4 GiB',
      'start web | Booting Linux',
      'start web: warning: no entropy device',
      'start web: waiting for SSH',
    ]);
  });

  it('prints its result as one array with --json, and nothing else', async () => {
    const { stdout } = await cli('start web --json', {
      startVm: () => operation(),
      events: { op1: [done({ result: vm('web') })] },
    });
    assert.deepEqual(JSON.parse(stdout), [vm('web')]);
  });

  it('says nothing with --quiet', async () => {
    const script = { startVm: () => operation(), events: { op1: [step('cloning'), done({ result: vm('web') })] } };
    assert.deepEqual(await cli('start -q web', script), { status: 0, stdout: '', stderr: '' });
  });

  it('passes options on in the units of the API', async () => {
    const bodies: unknown[] = [];
    const script = {
      createVm: ({ body }: { body: unknown }) => {
        bodies.push(body);
        return operation();
      },
      events: { op1: [done({ result: vm('web') })] },
    };
    await cli('create web -i trixie --vcpus 2 -m 2G --disk 10G --work-disk none --no-nat', script);
    await cli('create web --memory 512', script);
    assert.deepEqual(bodies, [
      {
        name: 'web',
        image: 'trixie',
        vcpus: 2,
        memoryMib: 2048,
        rootDiskBytes: 10 * 2 ** 30,
        workDiskBytes: 0,
        nat: false,
      },
      { name: 'web', memoryMib: 512 },
    ]);
  });

  it('refuses values that are none before it asks for anything', async () => {
    const refusals: [string, string][] = [
      ['create web --memory lots', '--memory: "lots" is not a size.'],
      ['create web --memory 1000k', '--memory: "1000k" is not a whole number of MiB.'],
      ['create web --vcpus two', '--vcpus: "two" is not a whole number.'],
      ['start web --timeout soon', '--timeout: "soon" is not a duration.'],
      ['create web --disk', 'Option `--disk <size>` argument missing.'],
    ];
    for (const [words, message] of refusals) {
      const { status, stderr } = await cli(words, {});
      assert.equal(status, 2, words);
      assert.equal(stderr.split('\n')[0], `banger: ${message}`, words);
    }
  });

  it('fails with the error of the operation', async () => {
    const { status, stdout, stderr } = await cli('start web', {
      startVm: () => operation(),
      events: { op1: [done({ state: 'failed', error: problem('timeout', 'web did not answer within 60 s.') })] },
    });
    assert.deepEqual(
      [status, stdout, stderr],
      [7, '', 'banger: web did not answer within 60 s.\n  try: banger doctor\n'],
    );
  });

  it('runs side by side for several names; one that fails stops no other', async () => {
    const events = Object.fromEntries(['web', 'cache'].map((name) => [name, [done({ result: vm(name) })]]));
    const { status, stdout, stderr } = await cli('start web db web cache', {
      startVm: ({ params: { name } }) => {
        if (name === 'db') throw new BangerError('not_found', 'There is no VM named db.');
        return operation({ id: name, target: name });
      },
      events,
    });
    assert.equal(status, 4);
    assert.match(stdout, /^web is running .*\ncache is running .*\n$/);
    assert.equal(stderr, 'banger: There is no VM named db.\n  try: banger start --help\n');
  });

  it('is undone at the first Ctrl-C, and says what to type to try again', async () => {
    const { signals, sender } = signaller();
    const cancelled = Promise.withResolvers<void>();
    const calls: string[] = [];
    const result = cli(
      'start web --timeout 30s',
      {
        startVm: () => operation(),
        cancelOperation: ({ params }) => {
          calls.push(params.id);
          cancelled.resolve();
          return { cancelled: true, watchers: 0 };
        },
        events: { op1: gated([step('cloning')], cancelled.promise, done({ state: 'cancelled' })) },
      },
      { signals },
    );
    const send = await sender;
    await delay(20);
    send('SIGINT');
    const { status, stdout, stderr } = await result;
    assert.deepEqual(calls, ['op1']);
    assert.deepEqual([status, stdout], [130, '']);
    assert.deepEqual(stderr.trimEnd().split('\n'), [
      'start web: cloning',
      'start web: undoing; Ctrl-C again leaves that to the daemon',
      'banger: start web was cancelled, and what it had done is undone.',
      '  try: banger start web --timeout 30s',
    ]);
  });

  it('is undone too when Ctrl-C comes before the daemon has answered', async () => {
    const { signals, sender } = signaller();
    const cancelled = Promise.withResolvers<void>();
    const result = cli(
      'start web',
      {
        startVm: async () => {
          await delay(40);
          return operation();
        },
        cancelOperation: () => {
          cancelled.resolve();
          return { cancelled: true, watchers: 0 };
        },
        events: { op1: gated([], cancelled.promise, done({ state: 'cancelled' })) },
      },
      { signals },
    );
    const send = await sender;
    await delay(20);
    send('SIGTERM');
    assert.equal((await result).status, 130);
  });

  it('is left to the daemon at the second Ctrl-C, at once', async () => {
    const { signals, sender } = signaller();
    const result = cli(
      'start web',
      {
        startVm: () => operation(),
        cancelOperation: () => ({ cancelled: true, watchers: 0 }),
        events: { op1: gated([], new Promise(() => {}), done()) },
      },
      { signals },
    );
    const send = await sender;
    await delay(20);
    send('SIGINT');
    await delay(5);
    send('SIGINT');
    const { status, stderr } = await result;
    assert.equal(status, 130);
    assert.match(
      stderr,
      /banger: Left start web to the daemon, which still undoes it\.\n {2}try: banger operation list\n$/,
    );
  });

  it('goes on when another client waits for it too', async () => {
    for (const [joined, watchers] of [
      [true, 0],
      [false, 1],
    ] as const) {
      const { signals, sender } = signaller();
      const calls: string[] = [];
      const result = cli(
        'start web',
        {
          startVm: () => operation({ joined }),
          cancelOperation: () => {
            calls.push('cancel');
            return { cancelled: false, watchers };
          },
          events: { op1: gated([], new Promise(() => {}), done()) },
        },
        { signals },
      );
      const send = await sender;
      await delay(20);
      send('SIGINT');
      const { status, stderr } = await result;
      assert.equal(status, 130);
      assert.match(
        stderr,
        /banger: start web goes on: another client waits for it too\.\n {2}try: banger operation wait op1\n$/,
      );
      // one that was joined is not ours to undo
      assert.deepEqual(calls, joined ? [] : ['cancel']);
    }
  });

  it('lets go of a VM at Ctrl-C that another client has started and that is not ready yet', async () => {
    const { signals, sender } = signaller();
    const asked = Promise.withResolvers<void>();
    const result = cli(
      'start web',
      {
        startVm: () => operation({ joined: true }),
        waitVm: ({ query }) => {
          assert.deepEqual(query, { for: 'ready' });
          asked.resolve();
          return new Promise(() => {});
        },
        events: { op1: [done({ result: vm('web', { ready: false, readyMs: null }) })] },
      },
      { signals },
    );
    const send = await sender;
    await asked.promise;
    send('SIGINT');
    const { status, stdout, stderr } = await result;
    assert.deepEqual([status, stdout], [130, '']);
    assert.match(stderr, /^banger: web runs and is not ready yet; another client .*\n.*banger wait web --for ready$/m);
  });

  it('counts as done when it ended before Ctrl-C reached it', async () => {
    const { signals, sender } = signaller();
    const asked = Promise.withResolvers<void>();
    const result = cli(
      'start web',
      {
        startVm: () => operation(),
        cancelOperation: () => {
          asked.resolve();
          return { cancelled: false, watchers: 0 };
        },
        events: { op1: gated([], asked.promise, done({ result: vm('web') })) },
      },
      { signals },
    );
    const send = await sender;
    await delay(20);
    send('SIGINT');
    assert.equal((await result).status, 0);
  });
});

describe('run', () => {
  it('is one request, with what a new VM shall be', async () => {
    const bodies: unknown[] = [];
    const { status, stdout, stderr } = await cli('run web --memory 2G --timeout 30s', {
      runVm: ({ body }) => {
        bodies.push(body);
        return operation();
      },
      events: { op1: [step('cloning'), done({ result: { ...vm('web'), created: true, started: true } })] },
    });
    assert.equal(status, 0);
    assert.deepEqual(bodies, [{ memoryMib: 2048, timeoutMs: 30_000 }]);
    assert.match(stdout, /^web is running at 172\.30\.0\.2 /);
    assert.equal(stderr, 'run web: cloning\nLog in with: banger ssh web\n');
  });

  it('says which options change nothing for a VM that exists, also when another client is starting that', async () => {
    for (const result of [{ ...vm('web'), created: false, started: true }, vm('web')]) {
      const { stdout, stderr, status } = await cli('run web --memory 2G --no-nat', {
        runVm: () => operation(),
        events: { op1: [done({ result })] },
      });
      assert.equal(status, 0);
      assert.match(stdout, /^web is running at /);
      assert.equal(stderr, 'banger: warning: web exists already; --memory, --no-nat changes nothing\n');
    }
  });

  describe('without any bundle', () => {
    const failed = done({
      state: 'failed',
      error: { ...problem('not_found', 'There is no bundle yet.'), details: { bundles: 0 } },
    });
    const bundle = { name: 'debian-bookworm', directory: '/srv/bundles/debian-bookworm' };

    it('makes the first one before, after saying so', async () => {
      const asked: string[] = [];
      const { status, stdout, stderr } = await cli('run web', {
        runVm: () => {
          asked.push('run');
          return operation({ id: asked.includes('build') ? 'op3' : 'op1' });
        },
        buildBundle: ({ body }) => {
          asked.push(`build ${JSON.stringify(body)}`, 'build');
          return operation({ id: 'op2', kind: 'bundle.build' });
        },
        events: {
          op1: [failed],
          op2: [step('resolve packages'), done({ id: 'op2', result: bundle })],
          op3: [done({ id: 'op3', result: { ...vm('web'), created: true, started: true } })],
        },
      });
      assert.equal(status, 0, stderr);
      assert.deepEqual(asked, ['run', 'build {}', 'build', 'run']);
      assert.match(stderr, /no bundle yet.*Making one.*\nbundle build: resolve packages\ndebian-bookworm is ready in/s);
      assert.match(stdout, /^web is running at /);
    });

    it('makes none with --no-build', async () => {
      const { status, stderr } = await cli('run web --no-build', {
        runVm: () => operation(),
        events: { op1: [failed] },
      });
      assert.equal(status, 4);
      assert.match(stderr, /There is no bundle yet/);
    });
  });

  it('is content with one that runs already', async () => {
    const script = {
      runVm: () => operation(),
      events: { op1: [done({ result: { ...vm('web'), created: false, started: false } })] },
    };
    const { stdout, status } = await cli('run web', script);
    assert.deepEqual([status, stdout], [0, 'web is already running at 172.30.0.2\n']);
    assert.deepEqual(JSON.parse((await cli('run web --json', script)).stdout), vm('web'));
  });

  it('stops when the VM cannot be created', async () => {
    const runVm = () => {
      throw new BangerError('invalid_input', 'name: must be a DNS label');
    };
    assert.equal((await cli('run Web_1', { runVm })).status, 2);
  });
});
