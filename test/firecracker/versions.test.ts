import assert from 'node:assert/strict';
import { chmod, rename, writeFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { describe, it } from 'node:test';
import { BangerError, messageOf } from '../../src/errors.ts';
import { connectVmm, explainRefusal, versionOfVmm } from '../../src/firecracker/api.ts';
import { configurationRequests } from '../../src/firecracker/machine-config.ts';
import { binaryVersion, limitsOf, parseVmmVersion, standingOf } from '../../src/firecracker/versions.ts';
import { createRunner } from '../../src/system/runner.ts';
import { firecrackerBin, startVmm } from '../fcqemu/support/vmm-process.ts';
import { tempDir } from '../support/temp-dir.ts';

const parsed = (said: string) => {
  const version = parseVmmVersion(said);
  assert.ok(version, said);
  return version;
};

describe('versions of Firecracker', () => {
  it('are read from what programs and APIs say', () => {
    assert.deepEqual(parsed('Firecracker v1.13.1\n'), { major: 1, minor: 13, patch: 1, text: '1.13.1' });
    assert.equal(parsed('1.16.1+fcqemu').text, '1.16.1+fcqemu');
    assert.equal(parsed('Firecracker v1.17.0-dev\n\n2026-01-02 exit_code=0').text, '1.17.0-dev');
    assert.equal(parseVmmVersion('1'), undefined);
    assert.equal(parseVmmVersion(''), undefined);
  });

  it('are known from 1.10 to 1.16.1, and others are named for what they are', () => {
    const standing = (text: string) => standingOf(parsed(text));
    assert.deepEqual(['1.10.0', '1.13.1', '1.16.1', '1.16.1+fcqemu'].map(standing), Array(4).fill('known'));
    assert.deepEqual(['1.9.1', '0.25.2'].map(standing), ['old', 'old']);
    assert.deepEqual(['1.16.2', '1.20.0', '2.0.0'].map(standing), ['newer', 'newer', 'new-major']);
  });

  it('have limits that are said', () => {
    assert.deepEqual(limitsOf(parsed('1.16.1')), []);
    assert.match(limitsOf(parsed('1.16.0')).join(), /^VMs that it runs cannot be suspended or forked/);
    assert.match(limitsOf(parsed('1.15.1')).join(), /MTU.*guests set it themselves/);
  });
});

describe('binaryVersion', () => {
  it('asks a program once, and again when the file was replaced', async (t) => {
    const dir = await tempDir(t);
    const path = join(dir, 'firecracker');
    const log = join(dir, 'log');
    const install = async (version: string) => {
      await writeFile(`${path}.new`, `#!/bin/sh\necho asked >> ${log}\necho 'Firecracker v${version}'\n`);
      await chmod(`${path}.new`, 0o755);
      await rename(`${path}.new`, path);
    };
    const runner = createRunner(process.env);
    const ask = async () => (await binaryVersion(runner, path, process.env))?.text;
    await install('1.13.1');
    assert.deepEqual([await ask(), await ask()], ['1.13.1', '1.13.1']);
    await install('1.16.1');
    assert.deepEqual([await ask(), await ask()], ['1.16.1', '1.16.1']);
    const { stdout } = await runner.run(['cat', log]);
    assert.equal(stdout, 'asked\nasked\n');
  });
});

describe('a refusal', () => {
  const refusal = new BangerError('vmm_failed', 'The VMM refused PUT /entropy: no', { details: { status: 400 } });
  const explained = (error: unknown, version: string) => messageOf(explainRefusal(error, parsed(version)));

  it('by a version that nobody has tried says so', () => {
    assert.match(explained(refusal, '1.3.0'), /^The VMM refused PUT \/entropy: no \(This is version 1\.3\.0, which/);
    assert.match(explained(refusal, '2.0.0'), /This is version 2\.0\.0/);
  });

  it('by any other, and any other failure, is left as it is', () => {
    assert.equal(explained(refusal, '1.13.1'), refusal.message);
    assert.equal(explained(new BangerError('vmm_failed', 'gone'), '1.3.0'), 'gone');
  });
});

describe('fcqemu', { skip: firecrackerBin ? 'FIRECRACKER_BIN stands for it' : false }, () => {
  it('is the release it conforms to', async (t) => {
    const vmm = await startVmm(t);
    await using api = connectVmm(vmm.socket);
    const version = await versionOfVmm(api);
    assert.deepEqual([version.text, standingOf(version), limitsOf(version)], ['1.16.1+fcqemu', 'known', []]);
    const machine = {
      ...{ vcpus: 1, memoryMib: 128, kernel: '/k', initrd: undefined, bootArgs: '', drives: [] },
      ...{ tap: 'tap0', mac: '06:00:00:00:00:01', mtu: 1500, vsock: join(dirname(vmm.socket), 'v.sock') },
    };
    for (const request of configurationRequests(machine, version)) {
      const answer = await api.send(request).then(() => '', messageOf);
      // files and devices of this machine do not matter here: the form of the request does
      assert.doesNotMatch(answer, /deserializing|unknown field/);
    }
  });
});
