import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import type { DoctorReport } from '../../src/api/system.ts';
import { cli, type Script } from './cli.ts';

describe('doctor', () => {
  const ok = { id: 'kvm', title: 'KVM', status: 'ok' as const, lookedFor: '/dev/kvm', detail: 'guests run' };
  const bad = {
    id: 'nft',
    title: 'nftables',
    status: 'failed' as const,
    lookedFor: 'nft in PATH',
    detail: 'not installed',
    fix: 'sudo apt install nftables',
  };

  it('is content when every check is', async () => {
    const { status, stdout } = await cli('doctor', {
      doctor: () => ({ checks: [ok], summary: { vmm: 'firecracker' }, ok: true }),
    });
    assert.deepEqual([status, stdout], [0, 'ok       KVM: guests run\n\nvmm  firecracker\n\nThis machine is ready.\n']);
  });

  it('fails when a start would, and says what fixes it', async () => {
    const { status, stdout } = await cli('doctor', { doctor: () => ({ checks: [ok, bad], summary: {}, ok: false }) });
    assert.equal(status, 6);
    assert.equal(
      stdout,
      `ok       KVM: guests run
FAILED   nftables: not installed
         looked for: nft in PATH
         fix: sudo apt install nftables

Checks that failed: 1
`,
    );
  });

  it('asks for the checks of one command, by words it knows', async () => {
    const asked: unknown[] = [];
    const script: Script = {
      doctor: ({ query }) => {
        asked.push(query?.command);
        return { checks: [ok], summary: {}, ok: true };
      },
    };
    assert.equal((await cli('doctor start', script)).status, 0);
    const { status, stderr } = await cli('doctor strat', script);
    assert.deepEqual(asked, ['start']);
    assert.equal(status, 2);
    assert.match(stderr, /no checks for "strat"\.\n {2}try: banger doctor start\n/);
  });

  describe('--fix', () => {
    const install = { ...bad, repair: { argv: ['apt-get', 'install', '-y', 'nftables'], asRoot: true } as const };
    const chmod = { ...bad, id: 'key', repair: { argv: ['chmod', '600', '/key'], asRoot: false } as const };
    const judge = { ...bad, id: 'pool', title: 'pool' };
    const optional = { ...chmod, id: 'other', status: 'warning' as const };

    async function fix(checks: DoctorReport['checks'], outcome: number, options: { json?: boolean } = {}) {
      const ran: string[] = [];
      let reports = 0;
      const result = await cli(
        options.json ? 'doctor --fix --json' : 'doctor --fix',
        {
          doctor: () => {
            reports += 1;
            const now = reports > 1 && outcome === 0 ? [ok] : checks;
            return { checks: now, summary: {}, ok: now.every(({ status }) => status !== 'failed') };
          },
        },
        {
          program: (argv, { output = 'stdout' } = {}) => {
            ran.push(`${argv.join(' ')} > ${output}`);
            return outcome;
          },
        },
      );
      return { ...result, ran, reports };
    }

    it('shows the commands, runs each once and asks again', async () => {
      const { status, stdout, stderr, ran, reports } = await fix([install, install, chmod, optional], 0);
      assert.deepEqual(ran, ['sudo -n -- apt-get install -y nftables > stderr', 'chmod 600 /key > stderr']);
      assert.equal(reports, 2);
      assert.match(
        stderr,
        /^These commands are run now:\n {2}sudo -n -- apt-get install -y nftables\n {2}chmod 600 \/key\n/,
      );
      assert.match(stdout, /ready/);
      assert.equal(status, 0);
    });

    it('says which command failed, and stays red', async () => {
      const { status, stdout, stderr } = await fix([install], 100);
      assert.equal(status, 6);
      assert.match(stderr, /`sudo -n -- apt-get install -y nftables` ended with 100/);
      assert.match(stdout, /Checks that failed: 1/);
    });

    it('runs nothing where somebody must decide', async () => {
      const { status, stderr, ran, reports } = await fix([judge], 0);
      assert.deepEqual([status, ran, reports], [6, [], 1]);
      assert.match(stderr, /yours to decide: nothing was run/);
    });

    it('prints nothing but the last report with --json', async () => {
      const { stdout } = await fix([chmod], 0, { json: true });
      assert.deepEqual(JSON.parse(stdout), { checks: [ok], summary: {}, ok: true });
    });
  });
});
