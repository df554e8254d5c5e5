/** Flags, exit codes and first words of the process, as Firecracker has them. */
import assert from 'node:assert/strict';
import { chmodSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, it } from 'node:test';
import { tempDir } from '../support/temp-dir.ts';
import { firecrackerBin, runVmm, startVmm, waitFor } from './support/vmm-process.ts';

const fcqemuOnly = firecrackerBin ? { skip: 'about fcqemu itself' } : {};

describe('the command line', { concurrency: 4 }, () => {
  it('prints its version in the form the Go SDK looks for, and ends well', async () => {
    const end = await runVmm(['--version', '--nonsense']);
    assert.equal(end.code, 0);
    assert.match(end.stdout, /^Firecracker v\d+\.\d+\.\d+\S*\n\n/);
    assert.match(end.stdout, /\[anonymous-instance:main\] Firecracker exiting successfully\. exit_code=0\n$/);
  });

  it('describes every flag', async () => {
    const end = await runVmm(['--help']);
    assert.equal(end.code, 0);
    for (const flag of ['--api-sock', '--id', '--config-file', '--no-api', '--log-path', '--metrics-path']) {
      assert.ok(end.stdout.includes(flag), `${flag} is missing`);
    }
  });

  const refused: [args: string[], message: string, debug: string][] = [
    [
      ['--foo'],
      "Found argument 'foo' which wasn't expected, or isn't valid in this context.",
      'UnexpectedArgument("foo")',
    ],
    [
      ['foo'],
      "Found argument 'foo' which wasn't expected, or isn't valid in this context.",
      'UnexpectedArgument("foo")',
    ],
    [
      ['--id=x'],
      "Found argument 'id=x' which wasn't expected, or isn't valid in this context.",
      'UnexpectedArgument("id=x")',
    ],
    [['--id'], "The argument 'id' requires a value, but none was supplied.", 'MissingValue("id")'],
    [['--id', '--no-api'], "The argument 'id' requires a value, but none was supplied.", 'MissingValue("id")'],
    [['--id', 'a', '--id', 'b'], "The argument 'id' was provided more than once.", 'DuplicateArgument("id")'],
    [['--no-api'], "Argument 'config-file' required, but not found.", 'MissingArgument("config-file")'],
    [
      ['--no-seccomp', '--seccomp-filter', 'x'],
      "Argument 'seccomp-filter' cannot be used together with argument 'no-seccomp'.",
      'ForbiddenArgument("no-seccomp", "seccomp-filter")',
    ],
  ];
  for (const [args, message, debug] of refused) {
    it(`refuses \`${args.join(' ')}\` with status 153`, async () => {
      const end = await runVmm(args);
      assert.equal(end.code, 153);
      assert.ok(end.stdout.includes(`Arguments parsing error: ${message} \\n\\nFor more information try --help.`));
      assert.ok(end.stdout.includes('Firecracker exiting with error. exit_code=153'));
      assert.equal(end.stderr, `Error: ParseArguments(${debug})\n`);
    });
  }

  for (const args of [['--enable-pci'], ['--seccomp-filter', '/dev/null']]) {
    it(`refuses ${args[0]}, which it cannot honour`, fcqemuOnly, async () => {
      const end = await runVmm(args);
      assert.equal(end.code, 153);
      assert.match(end.stdout, /is not supported by fcqemu/);
    });
  }

  for (const id of ['under_score', 'a'.repeat(65), 'with space']) {
    it(`aborts on the invalid id ${id.slice(0, 12)}`, async () => {
      const end = await runVmm(['--id', id]);
      assert.equal(end.signal, 'SIGABRT');
      assert.equal(end.stderr, '');
      assert.match(end.stdout, /Firecracker panicked at \S+:\d+:\d+:\nInvalid instance ID: Invalid(Len|Char)/);
    });
  }

  it('aborts on sizes that are no numbers', async () => {
    assert.equal((await runVmm(['--http-api-max-payload-size', '12k'])).signal, 'SIGABRT');
  });

  it('refuses an unknown log level with status 152', async () => {
    const end = await runVmm(['--level', 'loud']);
    assert.equal(end.code, 152);
    assert.match(end.stdout, /Invalid value for logger level: Failed to parse string to level filter: loud\.Possible/);
  });

  it('reports a log file it cannot open with status 1', async () => {
    const end = await runVmm(['--log-path', '/nonexistent/dir/x.log']);
    assert.equal(end.code, 1);
    assert.match(
      end.stdout,
      /Could not initialize logger: Failed to open target file: No such file or directory \(os error 2\)/,
    );
  });

  it('reports a socket path that exists with status 1', async (t) => {
    const path = join(await tempDir(t), 'left.sock');
    writeFileSync(path, '');
    const end = await runVmm(['--api-sock', path]);
    assert.equal(end.code, 1);
    assert.ok(
      end.stdout.includes(`Failed to open the API socket at: ${path}. Check that it is not already used.`),
      end.stdout,
    );
  });

  it('begins its log with the three lines clients wait for', async (t) => {
    const vmm = await startVmm(t, { args: ['--id', 'my-vm-1'] });
    const lines = vmm.log().trim().split('\n');
    const time = String.raw`\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}`;
    assert.match(lines[0] ?? '', new RegExp(`^${time} \\[my-vm-1:main\\] Running Firecracker v`));
    assert.match(
      lines[1] ?? '',
      new RegExp(`^${time} \\[my-vm-1:main\\] Listening on API socket \\("${vmm.socket}"\\)\\.$`),
    );
    assert.match(lines[2] ?? '', new RegExp(`^${time} \\[my-vm-1:fc_api\\] API server started\\.$`));
    assert.equal(lines.length, 3);
  });

  it('shows level and origin in the log when asked', async (t) => {
    const vmm = await startVmm(t, { args: ['--show-level', '--show-log-origin', '--level', 'DEBUG'] });
    await vmm.get('/version');
    assert.match(
      vmm.log(),
      /\[anonymous-instance:fc_api:INFO:[^:]+\/[^:]+:\d+\] The API server received a Get request on "\/version"\./,
    );
    assert.match(vmm.log(), /:fc_api:DEBUG:\S+\] Total previous API call duration: \d+ us\./);
  });

  it('keeps times in the log ascending', async (t) => {
    const vmm = await startVmm(t);
    for (let i = 0; i < 20; i++) await vmm.get('/');
    const times = vmm
      .log()
      .trim()
      .split('\n')
      .map((line) => line.slice(0, 29));
    assert.deepEqual(times, times.toSorted());
  });

  it('writes into the log file from its beginning, without truncating it', async (t) => {
    const dir = await tempDir(t);
    const path = join(dir, 'old.log');
    writeFileSync(path, 'x'.repeat(4000));
    await runVmm([
      '--log-path',
      path,
      '--level',
      'info',
      '--metrics-path',
      '/nonexistent/m',
      '--api-sock',
      join(dir, 's'),
    ]);
    const { readFileSync } = await import('node:fs');
    const text = readFileSync(path, 'latin1');
    assert.equal(text.length, 4000);
    assert.match(text, /^\d{4}-.*Running Firecracker/);
    assert.match(text, /xxx$/);
  });

  for (const [signal, code] of [
    ['SIGHUP', 156],
    ['SIGBUS', 149],
    ['SIGSEGV', 150],
    ['SIGILL', 157],
    ['SIGXCPU', 154],
    ['SIGXFSZ', 151],
    // the code of a forbidden system call is 148, but nobody can send one
    ['SIGSYS', 2],
  ] as const) {
    it(`ends with ${code} on ${signal}`, async (t) => {
      const vmm = await startVmm(t);
      vmm.process.kill(signal);
      assert.equal((await vmm.ended).code, code);
      assert.match(vmm.log(), /Shutting down VM after intercepting signal \d+, code 0\./);
    });
  }

  it('counts a SIGPIPE and lives on', async (t) => {
    const vmm = await startVmm(t);
    const begin = performance.now();
    vmm.process.kill('SIGPIPE');
    await waitFor(() => /Received signal 13, code 0\./.test(vmm.log()), 'the log line');
    assert.equal((await vmm.get('/')).state, 'Not started');
    for (let i = 0; i < 30; i++) {
      vmm.process.kill('SIGPIPE');
      await vmm.get('/');
    }
    const logged = vmm.log().match(/Received signal 13/g)?.length ?? 0;
    // ten at once, then one in half a second
    const more = Math.floor((performance.now() - begin) / 500);
    assert.ok(logged >= 10 && logged <= 10 + more, `${logged} messages, ${more} half seconds`);
  });

  it('overlooks the signal that Firecracker’s own threads send', async (t) => {
    const vmm = await startVmm(t);
    await vmm.get('/');
    process.kill(vmm.process.pid ?? 0, 35);
    assert.equal((await vmm.get('/')).state, 'Not started');
  });

  for (const signal of ['SIGTERM', 'SIGINT', 'SIGUSR1', 'SIGUSR2', 'SIGALRM'] as const) {
    it(`dies by ${signal}`, async (t) => {
      const vmm = await startVmm(t);
      vmm.process.kill(signal);
      const end = await vmm.ended;
      assert.equal(end.signal, signal);
      assert.equal(end.code, null);
    });
  }

  it('refuses a FCQEMU_ACCEL that means nothing', fcqemuOnly, async () => {
    const end = await runVmm([], { FCQEMU_ACCEL: 'xen' });
    assert.equal(end.code, 1);
    assert.match(end.stdout, /FCQEMU_ACCEL is "xen"; it must be kvm, tcg or auto\./);
  });

  it('leaves its socket behind, as Firecracker does', async (t) => {
    const vmm = await startVmm(t);
    vmm.process.kill('SIGTERM');
    await vmm.ended;
    // would throw if the file were gone
    chmodSync(vmm.socket, 0o700);
  });
});
