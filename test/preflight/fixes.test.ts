import assert from 'node:assert/strict';
import { readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { describe, it } from 'node:test';
import { installAdvice, installCommand } from '../../src/preflight/fixes.ts';
import { parseOsRelease, readDistribution } from '../../src/system/os-release.ts';
import { tempDir } from '../support/temp-dir.ts';

const RELEASES: [string, string, string, string | undefined][] = [
  [
    'debian',
    'PRETTY_NAME="Debian GNU/Linux 12 (bookworm)"\nNAME="Debian GNU/Linux"\nVERSION_ID="12"\nID=debian\n',
    'debian',
    '12',
  ],
  ['ubuntu', 'NAME="Ubuntu"\nVERSION_ID="24.04"\nID=ubuntu\nID_LIKE=debian\n', 'debian', '24.04'],
  ['linuxmint', 'ID=linuxmint\nID_LIKE="ubuntu debian"\nVERSION_ID="22"\n', 'debian', '22'],
  ['fedora', 'NAME="Fedora Linux"\nID=fedora\nVERSION_ID=42\n', 'fedora', '42'],
  ['rocky', 'ID="rocky"\nID_LIKE="rhel centos fedora"\nVERSION_ID="9.5"\n', 'fedora', '9.5'],
  ['arch', 'NAME="Arch Linux"\nID=arch\nBUILD_ID=rolling\n', 'arch', undefined],
  ['alpine', 'NAME="Alpine Linux"\nID=alpine\nVERSION_ID=3.22.0\n', 'alpine', '3.22.0'],
  ['opensuse-leap', 'ID="opensuse-leap"\nID_LIKE="suse opensuse"\nVERSION_ID="15.6"\n', 'suse', '15.6'],
  ['opensuse-tumbleweed', "ID='opensuse-tumbleweed'\nVERSION_ID='20260801'\n", 'suse', '20260801'],
  ['nixos', 'ID=nixos\nPRETTY_NAME="NixOS 26.05"\n', 'unknown', undefined],
];

describe('readDistribution', () => {
  for (const [id, text, family, version] of RELEASES) {
    it(`knows ${id}`, async (t) => {
      const file = join(await tempDir(t), 'os-release');
      await writeFile(file, text);
      const distribution = await readDistribution(['/nonexistent/os-release', file]);
      assert.deepEqual([distribution.id, distribution.family, distribution.version], [id, family, version]);
    });
  }

  it('knows nothing where no file says', async () => {
    const distribution = await readDistribution(['/nonexistent/os-release']);
    assert.deepEqual(distribution, { family: 'unknown', id: 'linux', name: 'Linux', version: undefined });
  });

  it('reads quotes and escapes as a shell would', () => {
    assert.equal(parseOsRelease('PRETTY_NAME="The \\"Best\\" Linux"\n').name, 'The "Best" Linux');
  });
});

describe('docs/host-setup.md', () => {
  it('names the command for each family of distributions that preflight would name', async () => {
    const documentation = await readFile(new URL('../../docs/host-setup.md', import.meta.url), 'utf8');
    const needed = [
      'qemu-system-x86_64',
      'ip',
      'nft',
      'mke2fs',
      'e2fsck',
      'resize2fs',
      'ssh',
      'cp',
      'setpriv',
      'prlimit',
    ];
    for (const id of ['debian', 'fedora', 'arch', 'alpine', 'opensuse-leap']) {
      const command = installCommand(parseOsRelease(RELEASES.find(([name]) => name === id)?.[1] ?? ''), needed, 1000);
      assert.ok(documentation.includes(`\`${command}\``), `${id}: ${command}`);
    }
  });
});

describe('installCommand', () => {
  const programs = ['qemu-system-x86_64', 'ip', 'mke2fs', 'resize2fs', 'ssh'];
  const commands: [string, string][] = [
    ['debian', 'sudo apt install qemu-system-x86 iproute2 e2fsprogs openssh-client'],
    ['fedora', 'sudo dnf install qemu-system-x86-core iproute e2fsprogs openssh-clients'],
    ['arch', 'sudo pacman -S qemu-system-x86 iproute2 e2fsprogs openssh'],
    ['alpine', 'sudo apk add qemu-system-x86_64 iproute2 e2fsprogs e2fsprogs-extra openssh-client-default'],
    ['opensuse-leap', 'sudo zypper install qemu-x86 iproute2 e2fsprogs openssh-clients'],
  ];
  for (const [id, command] of commands) {
    it(`is one command on ${id}`, () => {
      const distribution = parseOsRelease(RELEASES.find(([name]) => name === id)?.[1] ?? '');
      assert.equal(installCommand(distribution, programs, 1000), command);
    });
  }

  it('has no sudo in it for root', () => {
    assert.equal(installCommand(parseOsRelease('ID=debian'), ['nft'], 0), 'apt install nftables');
  });

  it('is a sentence where no command is known', () => {
    assert.equal(installCommand(parseOsRelease('ID=nixos'), ['nft'], 0), undefined);
    assert.equal(
      installAdvice(parseOsRelease('ID=nixos\nNAME=NixOS'), ['nft', 'ip'], 0),
      'Install nft, ip with the package manager of NixOS.',
    );
    assert.equal(installCommand(parseOsRelease('ID=fedora'), ['mmdebstrap'], 0), undefined);
  });
});
