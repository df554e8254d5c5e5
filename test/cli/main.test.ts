import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { BangerError } from '../../src/errors.ts';
import { VERSION } from '../../src/version.ts';
import { cli, done, operation, vm } from './cli.ts';

describe('the command line', () => {
  it('prints its version', async () => {
    assert.deepEqual(await cli('--version', {}), { status: 0, stdout: `banger ${VERSION}\n`, stderr: '' });
  });

  it('shows help on stderr and fails when nothing is asked of it', async () => {
    for (const words of ['', 'vm', 'daemon']) {
      const result = await cli(words, {});
      assert.equal(result.status, 2, words);
      assert.equal(result.stdout, '', words);
      assert.match(result.stderr, /^Usage: banger /, words);
    }
  });

  it('shows help on stdout when asked', async () => {
    for (const words of ['--help', '-h', 'help', 'vm --help', 'help vm', 'vm start --help', 'help vm start', 'ls -h']) {
      const result = await cli(words, {});
      assert.equal(result.status, 0, words);
      assert.match(result.stdout, /^Usage: banger /, words);
      assert.equal(result.stderr, '', words);
    }
  });

  it('names the daily commands first', async () => {
    const { stdout } = await cli('--help', {});
    const headings = stdout.match(/^\S.*:$/gm);
    assert.deepEqual(headings, ['Options:', 'Daily commands:', 'Setting up and looking:', 'By subject:', 'Examples:']);
  });

  it('guesses what a mistyped command or flag was meant to be', async () => {
    const guesses: [string, string][] = [
      ['strat web', 'banger: `banger strat` is no command.\n  Did you mean `banger start`?\n'],
      ['vm lst', 'banger: `banger vm lst` is no command.\n  Did you mean `banger vm list`?\n'],
      ['ls --jsn', 'banger: Unknown option `--jsn`.\n  Did you mean --json? See: banger ls --help\n'],
      ['frobnicate', 'banger: `banger frobnicate` is no command.\n  try: banger --help\n'],
      ['vm frobnicate', 'banger: `banger vm frobnicate` is no command.\n  try: banger vm --help\n'],
      ['--frobnicate', 'banger: Unknown option `--frobnicate`.\n  try: banger --help\n'],
    ];
    for (const [words, expected] of guesses) {
      assert.deepEqual(await cli(words, {}), { status: 2, stdout: '', stderr: expected }, words);
    }
  });

  it('refuses missing and superfluous arguments', async () => {
    const missing = await cli('start', {});
    assert.deepEqual(
      [missing.status, missing.stderr],
      [2, 'banger: Missing required argument `names`.\n  try: banger start --help\n'],
    );
    const extra = await cli('show web db', {});
    assert.equal(extra.status, 2);
    assert.match(extra.stderr, /^banger: Too many arguments/);
  });

  it('takes --json and --quiet before the command too', async () => {
    const script = { listVms: () => [vm('web')] };
    const before = await cli('--json ls', script);
    assert.deepEqual(before, await cli('ls --json', script));
    assert.deepEqual(JSON.parse(before.stdout), [vm('web')]);
    assert.equal((await cli('-q ls', { listVms: () => [] })).stderr, '');
  });

  it('exits as the error says and shows its hint', async () => {
    const statuses: [ConstructorParameters<typeof BangerError>[0], number][] = [
      ['invalid_input', 2],
      ['daemon_unreachable', 3],
      ['not_found', 4],
      ['conflict', 5],
      ['preflight_failed', 6],
      ['timeout', 7],
      ['cancelled', 130],
      ['vmm_failed', 1],
    ];
    for (const [code, status] of statuses) {
      const showVm = () => {
        throw new BangerError(code, 'It did not work.', { hint: 'banger doctor' });
      };
      assert.deepEqual(await cli('show web', { showVm }), {
        status,
        stdout: '',
        stderr: 'banger: It did not work.\n  try: banger doctor\n',
      });
    }
  });

  it('lists every failed check of a refused action with the command that fixes it', async () => {
    const checks = [
      { title: 'KVM', status: 'ok', detail: 'works' },
      { title: 'nft', status: 'failed', detail: 'not installed', fix: 'sudo apt install nftables' },
      { title: 'ip', status: 'failed', detail: 'not installed', fix: 'sudo apt install iproute2' },
    ];
    const showVm = () => {
      throw new BangerError('preflight_failed', 'web cannot start on this machine.', { details: { checks } });
    };
    const { stderr } = await cli('show web', { showVm });
    assert.equal(
      stderr,
      `banger: web cannot start on this machine.
  ✘ nft: not installed
    fix: sudo apt install nftables
  ✘ ip: not installed
    fix: sudo apt install iproute2
`,
    );
  });

  it('warns once when the daemon is of another version, with the way out', async () => {
    const { stderr, status } = await cli('run web', {
      version: '0.0.9',
      runVm: () => operation(),
      events: { op1: [done({ result: { ...vm('web'), created: true, started: true } })] },
    });
    assert.equal(status, 0);
    assert.equal(
      stderr,
      `banger: warning: the daemon is version 0.0.9, this is ${VERSION}; \`banger daemon stop\` replaces it, VMs keep running\n` +
        'Log in with: banger ssh web\n',
    );
  });

  it('colours errors on a terminal, unless NO_COLOR is set', async () => {
    const red = '\u001b[31m';
    const coloured = await cli('start', {}, { terminal: true });
    assert.ok(coloured.stderr.includes(red));
    for (const env of [{ NO_COLOR: '1' }, { TERM: 'dumb' }]) {
      const plain = await cli('start', {}, { terminal: true, env });
      assert.ok(!plain.stderr.includes('\u001b'), JSON.stringify(env));
    }
    const forced = await cli('start', {}, { env: { FORCE_COLOR: '1' } });
    assert.ok(forced.stderr.includes(red));
  });

  it("says what a refusal is about in options, and names the command's help", async () => {
    const message = 'vcpus must be at most 32; memoryMib must be at least 64; name is missing.';
    const refuse = () => Promise.reject(new BangerError('invalid_input', message));
    const { status, stderr } = await cli('create web --vcpus 33', { createVm: refuse });
    const told = '--vcpus must be at most 32; --memory (in MiB) must be at least 64; name is missing.';
    assert.deepEqual([status, stderr], [2, `banger: ${told}\n  try: banger create --help\n`]);
  });

  it('refuses an environment it cannot work with', async () => {
    const { status, stderr } = await cli('ls', {}, { env: { BANGER_HOME: 'here' } });
    assert.equal(status, 2);
    assert.match(stderr, /BANGER_HOME holds "here", which is no absolute path/);
  });
});
