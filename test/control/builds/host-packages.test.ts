/** apt's plan for a guest, turned into calls of dpkg. */
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { join } from 'node:path';
import { describe, it } from 'node:test';
import { loadConfig } from '../../../src/config/load.ts';
import { dpkgCommands, parseSimulation } from '../../../src/control/builds/host-packages.ts';
import { endInterruptedDownloads } from '../../../src/control/upkeep/interrupted-work.ts';
import { tempDir } from '../../support/temp-dir.ts';

const PLAN = `NOTE: This is only a simulation!
Inst libonig5 (6.9.8-1 Debian:12.11/oldstable [amd64])
Inst libjq1 (1.6-2.1+deb12u3 Debian-Security:12/oldstable-security [amd64])
Inst jq (2:1.6 Debian:12 [amd64])
Conf libonig5 (6.9.8-1 Debian:12.11/oldstable [amd64])
Conf libjq1 (1.6-2.1+deb12u3 Debian-Security:12/oldstable-security [amd64])
Conf jq (2:1.6 Debian:12 [amd64])
`;

describe('a download of a daemon that died', () => {
  it('is ended by the next one, others are not', async (t) => {
    const cache = await tempDir(t);
    const begin = (dir: string) => {
      const child = spawn('sh', ['-c', 'read wait', 'apt-get', '-o', `Banger::Directory=${dir}`, 'update']);
      t.after(() => child.kill('SIGKILL'));
      return { child, ended: once(child, 'exit') };
    };
    const ours = begin(join(cache, 'apt/guest-1'));
    const other = begin('/elsewhere/apt/guest-1');
    const { config } = await loadConfig({
      env: { ...process.env, BANGER_HOME: cache, BANGER_PATHS_CACHE: cache },
      uid: 0,
    });
    await endInterruptedDownloads({ config });
    assert.deepEqual(await ours.ended, [null, 'SIGKILL']);
    assert.equal(other.child.exitCode, null);
  });
});

describe('the plan of apt', () => {
  it('is read line by line', () => {
    const steps = parseSimulation(PLAN) ?? [];
    assert.equal(steps.length, 6);
    assert.deepEqual(steps[2], { do: 'unpack', name: 'jq', version: '2:1.6', arch: 'amd64' });
    assert.deepEqual(steps[5], { do: 'configure', name: 'jq' });
    const upgrade = parseSimulation('Inst libc6 [2.36-9] (2.36-10 Debian:12 [amd64]) [libc-bin:amd64 ]\n');
    assert.deepEqual(upgrade, [{ do: 'unpack', name: 'libc6', version: '2.36-10', arch: 'amd64' }]);
  });

  it('is left to the guest when it removes packages or crosses architectures', () => {
    assert.equal(parseSimulation('Remv nano [7.2]\n'), undefined);
    assert.equal(parseSimulation('Inst libc6:i386 (2.36 Debian:12 [i386])\n'), undefined);
  });

  it('becomes one call of dpkg where the order allows it', () => {
    const commands = dpkgCommands(parseSimulation(PLAN) ?? [], ['jq']);
    assert.match(
      commands[0] ?? '',
      /^dpkg --force\S+ \S+ \S+ --install \S+\/libonig5_6\.9\.8-1_amd64\.deb \S+\/libjq1_\S+ \S+\/jq_2%3a1\.6_amd64\.deb$/,
    );
    assert.match(commands[1] ?? '', /Package: libonig5\\nArchitecture: amd64\\nAuto-Installed: 1.*libjq1/);
    assert.doesNotMatch(commands[1] ?? '', /Package: jq\\n/);
  });

  it('keeps what must be configured before others are unpacked', () => {
    const text = 'Inst a (1 D [amd64])\nConf a (1 D [amd64])\nInst b (1 D [amd64])\nConf b (1 D [amd64])\n';
    const verbs = dpkgCommands(parseSimulation(text) ?? [], ['a', 'b']).map(
      (command) => / (--[a-z]+) \S+$/.exec(command)?.[1],
    );
    assert.deepEqual(verbs.slice(0, 4), ['--unpack', '--configure', '--install', '--configure']);
  });

  it('configures what was unpacked before the last call too', () => {
    const text =
      'Inst base (1 D [amd64])\nInst lib (1 D [amd64])\nConf base (1 D [amd64])\nInst top (1 D [amd64])\nConf lib (1 D [amd64])\nConf top (1 D [amd64])\n';
    const verbs = dpkgCommands(parseSimulation(text) ?? [], ['top']).map(
      (command) => / (--(?:unpack|configure|install) .*)$/.exec(command)?.[1],
    );
    assert.match(verbs[0] ?? '', /^--unpack \S+\/base_\S+ \S+\/lib_\S+$/);
    assert.equal(verbs[1], '--configure base');
    assert.match(verbs[2] ?? '', /^--unpack \S+\/top_\S+$/);
    assert.equal(verbs[3], '--configure -a');
  });

  it('of nothing still finishes what is half installed', () => {
    assert.match(dpkgCommands([], ['jq']).join('\n'), /^dpkg .* --configure -a\nrm -rf \S+$/);
  });
});
