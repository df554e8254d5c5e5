import assert from 'node:assert/strict';
import type { Duplex } from 'node:stream';
import { duplexPair, PassThrough, Readable } from 'node:stream';
import { describe, it } from 'node:test';
import { setTimeout as delay } from 'node:timers/promises';
import { createFrameDecoder, encodeCredit, encodeFrame, FRAME, INPUT_WINDOW_BYTES } from '../../src/api/exec-frames.ts';
import type { ExecRequest } from '../../src/api/vm.ts';
import type { Input } from '../../src/cli/terminal.ts';
import { type CliOptions, cli } from './cli.ts';

interface Frame {
  type: number;
  payload: Buffer;
}

/** The daemon's end of one exec connection. */
interface Guest {
  request: ExecRequest;
  socket: Duplex;
  /** the next frame from the client; undefined when it hung up */
  next(): Promise<Frame | undefined>;
}

/** Runs `banger exec` against a guest that is a function. */
async function exec(words: readonly string[], guest: (guest: Guest) => Promise<void>, options: CliOptions = {}) {
  const served: Promise<void>[] = [];
  const result = await cli(
    ['exec', ...words],
    {
      exec: async (name, request) => {
        assert.equal(name, 'web');
        const [client, daemon] = duplexPair();
        const frames = readFrames(daemon);
        const next = async () => (await frames.next()).value;
        served.push(guest({ request, socket: daemon, next }));
        return client;
      },
    },
    options,
  );
  await Promise.all(served);
  return result;
}

async function* readFrames(socket: Duplex): AsyncGenerator<Frame, undefined> {
  const decode = createFrameDecoder();
  try {
    for await (const chunk of socket) yield* decode(chunk);
  } catch {
    // the client closed the connection in its own way
  }
  return undefined;
}

const exit = (code: number | null, signal?: string) => encodeFrame(FRAME.exit, JSON.stringify({ code, signal }));

describe('exec', () => {
  it('passes on output apart and the exit status', async () => {
    const { status, stdout, stderr } = await exec(['web', '--', 'sh', '-c', 'exit 42'], async ({ request, socket }) => {
      assert.deepEqual(request, { argv: ['sh', '-c', 'exit 42'], tty: false, env: {} });
      socket.write(encodeFrame(FRAME.stdout, 'out\n'));
      socket.write(encodeFrame(FRAME.stderr, 'err\n'));
      socket.write(exit(42));
    });
    assert.deepEqual({ status, stdout, stderr }, { status: 42, stdout: 'out\n', stderr: 'err\n' });
  });

  it('needs no -- before the command, and leaves one in it alone', async () => {
    const argvs: string[][] = [];
    const guest = async ({ request, socket }: Guest) => {
      argvs.push(request.argv);
      socket.write(exit(0));
    };
    await exec(['web', 'ls', '-la', '--json'], guest);
    await exec(['web', 'grep', '--', '-x', 'f'], guest);
    await exec(['web', '--', '--', 'odd'], guest);
    assert.deepEqual(argvs, [
      ['ls', '-la', '--json'],
      ['grep', '--', '-x', 'f'],
      ['--', 'odd'],
    ]);
  });

  it('ends the input of a terminal by its key, at the beginning of a line', async () => {
    for (const [typed, key] of [
      ['a\n', '\x04'],
      ['', '\x04'],
      ['half a line', '\x04\x04'],
    ]) {
      let received = '';
      await exec(
        ['-t', 'web', 'cat'],
        async ({ socket, next }) => {
          while (!received.endsWith(key ?? '')) {
            const frame = await next();
            assert.equal(frame?.type, FRAME.stdin);
            received += frame?.payload;
          }
          socket.write(exit(0));
        },
        { stdin: Readable.from([Buffer.from(typed ?? '')]) as Input },
      );
      assert.equal(received, `${typed}${key}`);
    }
  });

  it('passes on input to its end, however much it is', async () => {
    const sent = Buffer.alloc(3_000_000, 'abcdefg\n');
    let received = Buffer.alloc(0);
    const chunks: Buffer[] = [];
    await exec(
      ['web', 'cat'],
      async ({ socket, next }) => {
        for (let frame = await next(); frame; frame = await next()) {
          if (frame.type === FRAME.stdinEnd) break;
          assert.equal(frame.type, FRAME.stdin);
          chunks.push(frame.payload);
        }
        received = Buffer.concat(chunks);
        socket.write(exit(0));
      },
      { stdin: Readable.from([sent.subarray(0, 1_500_000), sent.subarray(1_500_000)]) },
    );
    assert.ok(received.equals(sent));
  });

  it('stops reading input that the command does not take', async () => {
    let produced = 0;
    const stdin = new Readable({
      read() {
        produced += 65_536;
        this.push(Buffer.alloc(65_536));
      },
    });
    await exec(
      ['web', 'sleep', '1'],
      async ({ socket }) => {
        await delay(100);
        socket.write(exit(0));
      },
      { stdin },
    );
    assert.ok(produced < 4_000_000, `read ${produced} bytes for a command that took none`);
  });

  it('sends no more input than the daemon grants', async () => {
    const stdin = new Readable({
      read() {
        this.push(Buffer.alloc(65_536));
      },
    });
    await exec(
      ['web', 'cat'],
      async ({ socket, next }) => {
        let received = 0;
        const receive = async (bytes: number) => {
          while (received < bytes) received += (await next())?.payload.length ?? Number.NaN;
        };
        await receive(1);
        socket.write(encodeCredit(INPUT_WINDOW_BYTES));
        await receive(INPUT_WINDOW_BYTES);
        const more = next();
        assert.equal(await Promise.race([more, delay(50, 'nothing')]), 'nothing');
        assert.ok(received < INPUT_WINDOW_BYTES + 65_536, `${received} bytes`);
        socket.write(encodeCredit(INPUT_WINDOW_BYTES));
        received += (await more)?.payload.length ?? Number.NaN;
        await receive(2 * INPUT_WINDOW_BYTES);
        socket.write(exit(0));
      },
      { stdin },
    );
  });

  it('ends although its input is still open', async () => {
    const { status } = await exec(['web', 'true'], async ({ socket }) => void socket.write(exit(0)), {
      stdin: new PassThrough(),
    });
    assert.equal(status, 0);
  });

  it('gives no input with -n', async () => {
    await exec(
      ['-n', 'web', 'cat'],
      async ({ socket, next }) => {
        assert.equal((await next())?.type, FRAME.stdinEnd);
        socket.write(exit(0));
      },
      { stdin: Readable.from(['unread']) },
    );
  });

  it('exits with 128 + number when a signal ended the command', async () => {
    assert.equal((await exec(['web', 'x'], async ({ socket }) => void socket.write(exit(null, 'KILL')))).status, 137);
  });

  it('reports a VM that went away, which leaves no status at all', async () => {
    const { status, stderr } = await exec(['web', 'x'], async ({ socket }) => void socket.write(exit(null)));
    assert.deepEqual([status, stderr], [1, 'banger: The VM went away while the command ran.\n  try: banger ls\n']);
  });

  it('reports why a command never ran', async () => {
    const problem = { code: 'conflict', message: 'web is not running.', hint: 'banger start web' };
    const { status, stderr } = await exec(['web', 'x'], async ({ socket }) => {
      socket.write(encodeFrame(FRAME.error, JSON.stringify(problem)));
    });
    assert.deepEqual([status, stderr], [5, 'banger: web is not running.\n  try: banger start web\n']);
  });

  it('reports a connection that breaks', async () => {
    const { status, stderr } = await exec(['web', 'x'], async ({ socket }) => void socket.end());
    assert.equal(status, 3);
    assert.match(stderr, /^banger: The connection to the command broke: /);
  });

  it('sets variables and directory', async () => {
    await exec(['-e', 'A=1', '--env', 'B=x=y', '--cwd', '/srv', 'web', 'env'], async ({ request, socket }) => {
      assert.deepEqual(request, { argv: ['env'], tty: false, env: { A: '1', B: 'x=y' }, cwd: '/srv' });
      socket.write(exit(0));
    });
    const { status, stderr } = await cli('exec -e nothing web env', {});
    assert.equal(status, 2);
    assert.match(stderr, /^banger: --env: "nothing" sets no variable\./);
  });

  it('refuses options after the name, which would else be taken for a command', async () => {
    const { status, stderr } = await cli('exec web -t ls', {});
    assert.deepEqual(
      [status, stderr],
      [2, 'banger: The option -t comes after the name.\n  try: banger exec -t web -- COMMAND\n'],
    );
    assert.equal((await cli('exec web --', {})).status, 2);
  });
});

describe('exec on a terminal', () => {
  /** A keyboard that remembers in which mode it was read. */
  function keyboard() {
    const modes: boolean[] = [];
    const input: Input = new PassThrough();
    Object.assign(input, { isTTY: true, setRawMode: (raw: boolean) => modes.push(raw) });
    return { input, modes };
  }

  it('asks for one of the same size and passes keys on raw, also Ctrl-C', async () => {
    const { input, modes } = keyboard();
    await exec(
      ['web', 'htop'],
      async ({ request, socket, next }) => {
        assert.deepEqual(request, { argv: ['htop'], tty: true, columns: 80, rows: 24, term: 'xterm', env: {} });
        await delay(5);
        assert.deepEqual(modes, [true]);
        input.push('\u0003');
        const frame = await next();
        assert.deepEqual([frame?.type, frame?.payload.toString()], [FRAME.stdin, '\u0003']);
        socket.write(exit(0));
      },
      { stdin: input, terminal: true, env: { TERM: 'xterm' } },
    );
    assert.deepEqual(modes, [true, false], 'the terminal is left as it was');
  });

  it('leaves the terminal as it was when the connection breaks', async () => {
    const { input, modes } = keyboard();
    await exec(['web', 'htop'], async ({ socket }) => void socket.end(), { stdin: input, terminal: true });
    assert.deepEqual(modes, [true, false]);
  });

  it('gives none with -T, and one with -t where there is none', async () => {
    const { input, modes } = keyboard();
    const ttys: boolean[] = [];
    const guest = async ({ request, socket }: Guest) => {
      ttys.push(request.tty ?? false);
      socket.write(exit(0));
    };
    await exec(['-T', 'web', 'x'], guest, { stdin: input, terminal: true });
    await exec(['-t', 'web', 'x'], guest);
    assert.deepEqual(ttys, [false, true]);
    assert.deepEqual(modes, []);
  });

  it('passes on a change of its size', async () => {
    const { input } = keyboard();
    let resize = () => {};
    await exec(
      ['web', 'htop'],
      async ({ socket, next }) => {
        await delay(5);
        resize();
        const frame = await next();
        assert.equal(frame?.type, FRAME.resize);
        assert.deepEqual(JSON.parse(frame.payload.toString()), { columns: 132, rows: 43 });
        socket.write(exit(0));
      },
      {
        stdin: input,
        terminal: true,
        onStdout: (stdout) => {
          resize = () => {
            Object.assign(stdout, { columns: 132, rows: 43 });
            stdout.emit('resize');
          };
        },
      },
    );
  });

  it('is left at once by a signal from somebody else, with its status and the terminal as it was', async () => {
    for (const [signal, expected] of [
      ['SIGTERM', 143],
      ['SIGHUP', 129],
      ['SIGINT', 130],
    ] as const) {
      const { input, modes } = keyboard();
      let send: (signal: NodeJS.Signals) => void = () => {};
      const signals = (sender: typeof send) => {
        send = sender;
      };
      const { status } = await exec(
        ['web', 'htop'],
        async ({ next }) => {
          await delay(5);
          send(signal);
          assert.equal(await next(), undefined, 'the client hung up');
        },
        { stdin: input, terminal: true, signals },
      );
      assert.equal(status, expected);
      assert.deepEqual(modes, [true, false]);
    }
  });

  it('passes signals on where keys are not raw, and leaves after three ignored ones', async () => {
    let send: (signal: NodeJS.Signals) => void = () => {};
    const signals = (sender: typeof send) => {
      send = sender;
    };
    const { status } = await exec(
      ['-n', 'web', 'sleep', '100'],
      async ({ next }) => {
        await next(); // the end of input
        await delay(5);
        send('SIGTERM');
        assert.equal((await next())?.payload.toString(), 'TERM');
        send('SIGINT');
        assert.equal((await next())?.payload.toString(), 'INT');
        send('SIGINT');
      },
      { signals },
    );
    assert.equal(status, 130);
  });
});
