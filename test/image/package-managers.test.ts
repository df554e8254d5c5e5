/** What each package manager is told, how its list is read, and what is read from its failures. */
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { describe, it } from 'node:test';
import { causeOf } from '../../src/image/failures.ts';
import { packageManagerOf, packageManifest } from '../../src/image/package-managers.ts';
import { parseOsRelease } from '../../src/system/os-release.ts';
import { tempDir } from '../support/temp-dir.ts';

const of = (osRelease: string) => packageManagerOf(parseOsRelease(osRelease));

describe('the package manager of a guest', () => {
  it('is known by os-release, also of derivatives', () => {
    const names = [
      'ID=debian',
      'ID=ubuntu',
      'ID=alpine',
      'ID=fedora',
      'ID=arch',
      'ID="opensuse-leap"\nID_LIKE="suse"',
    ].map((text) => of(text).name);
    assert.deepEqual(names, ['apt', 'apt', 'apk', 'dnf', 'pacman', 'zypper']);
    assert.throws(() => of('ID=plan9\nPRETTY_NAME="Plan 9"'), /knows no package manager of Plan 9/);
  });

  it('never asks and installs no more than it must', () => {
    const install = (osRelease: string) => of(osRelease).install(['jq', 'tree']);
    assert.match(install('ID=debian'), /^apt-get -q .*--force-unsafe-io.* -y --no-install-recommends install jq tree$/);
    assert.equal(install('ID=alpine'), 'apk add --no-progress jq tree');
    assert.equal(install('ID=fedora'), 'dnf -y --setopt=install_weak_deps=False install jq tree');
    assert.equal(install('ID=arch'), 'pacman -S --needed --noconfirm --noprogressbar jq tree');
    assert.equal(install('ID=opensuse\nID_LIKE=suse'), 'zypper --non-interactive install --no-recommends jq tree');
    assert.equal(of('ID=fedora').install(['jq=1.7']), 'dnf -y --setopt=install_weak_deps=False install jq-1.7');
  });

  it('brings its lists up to date first and can remove them', () => {
    assert.match(of('ID=debian').refresh.join(), /APT::Update::Error-Mode=any update$/);
    assert.ok(of('ID=debian').caches.includes('/var/lib/apt/lists/*'));
    assert.equal(of('ID=fedora').clean, 'dnf clean all');
    assert.deepEqual(of('ID=alpine').refresh, ['apk update']);
    assert.match(of('ID=arch').refresh.join(), /-Syu/);
  });

  it('lists packages as name, version and architecture, sorted', () => {
    const dpkg = 'tree 2.1.0-1 amd64 ii \njq 1.6-2 amd64 ii \nold 1 amd64 rc \nbroken\n';
    assert.equal(packageManifest(of('ID=debian'), dpkg), 'jq 1.6-2 amd64\ntree 2.1.0-1 amd64\n');
    const apk = 'busybox-binsh-1.36.1-r5 x86_64 {busybox} (GPL-2.0-only) [installed]\nWARNING: opening cache\n';
    assert.equal(packageManifest(of('ID=alpine'), apk), 'busybox-binsh 1.36.1-r5 x86_64\n');
    const rpm = 'jq 0:1.7.1-3.fc40 x86_64\nbind 32:9.18-1 x86_64\n';
    assert.equal(packageManifest(of('ID=fedora'), rpm), 'bind 32:9.18-1 x86_64\njq 1.7.1-3.fc40 x86_64\n');
    assert.equal(packageManifest(of('ID=arch'), 'jq 1.7.1-2 x86_64\n'), 'jq 1.7.1-2 x86_64\n');
    assert.equal(packageManifest(of('ID=arch'), ''), '');
  });
});

/** What each says of two packages, as it was seen in guests of its distribution. */
const RECORDED: [string, string, string, string[], string][] = [
  [
    'ID=alpine',
    'apk',
    'jq-1.7.1-r0 x86_64 {jq} (MIT) [installed]\nlibc-utils-0.7.2-r5 x86_64 {libc-dev} (BSD-2-Clause) [installed]\n',
    ['apk update', 'apk add --no-progress jq tree', 'apk list --installed'],
    'jq 1.7.1-r0 x86_64\nlibc-utils 0.7.2-r5 x86_64\n',
  ],
  [
    'ID=fedora',
    'dnf rpm',
    'jq 0:1.7.1-8.fc41 x86_64\nbind-libs 32:9.18.33-1.fc41 x86_64\ngpg-pubkey 0:e99d6ad1-64d2612c (none)\n',
    [
      'dnf -q -y makecache',
      'dnf -y --setopt=install_weak_deps=False install jq tree',
      'rpm -qa --queryformat %{NAME} %{EPOCHNUM}:%{VERSION}-%{RELEASE} %{ARCH}\\n',
    ],
    'bind-libs 32:9.18.33-1.fc41 x86_64\ngpg-pubkey e99d6ad1-64d2612c (none)\njq 1.7.1-8.fc41 x86_64\n',
  ],
  [
    'ID=arch',
    'pacman',
    'Name            : jq\nVersion         : 1.7.1-2\nDescription     : Name : x\nArchitecture    : x86_64\n\n' +
      'Name            : tzdata\nVersion         : 2025a-1\nArchitecture    : any\n\n',
    ['pacman -Syu --noconfirm --noprogressbar', 'pacman -S --needed --noconfirm --noprogressbar jq tree', 'pacman -Qi'],
    'jq 1.7.1-2 x86_64\ntzdata 2025a-1 any\n',
  ],
  [
    'ID=opensuse-leap\nID_LIKE=suse',
    'zypper rpm',
    'jq 0:1.6-150000.3.3.1 x86_64\n',
    [
      'zypper --non-interactive refresh',
      'zypper --non-interactive install --no-recommends jq tree',
      'rpm -qa --queryformat %{NAME} %{EPOCHNUM}:%{VERSION}-%{RELEASE} %{ARCH}\\n',
    ],
    'jq 1.6-150000.3.3.1 x86_64\n',
  ],
];

describe('the commands for a package manager, run by a shell', () => {
  for (const [osRelease, programs, says, called, list] of RECORDED) {
    const manager = of(osRelease);
    it(`call ${manager.name} with what it takes, and its list is read`, async (t) => {
      const dir = await tempDir(t);
      for (const name of programs.split(' ')) {
        // only what is asked to list says something
        const stub = `#!/bin/sh\nprintf '%s\\n' "${name} $*" >> ${dir}/calls\ncase $* in *-qa*|*-Qi*|list*) cat ${dir}/says ;; esac\n`;
        await writeFile(join(dir, name), stub, { mode: 0o755 });
      }
      await writeFile(join(dir, 'says'), says);
      const script = [...manager.refresh, manager.install(['jq', 'tree']), manager.list].join('\n');
      const said = execFileSync('sh', ['-ec', script], {
        env: { PATH: `${dir}:/usr/bin:/bin` },
        encoding: 'utf8',
      });
      assert.equal(await readFile(join(dir, 'calls'), 'utf8'), `${called.join('\n')}\n`);
      assert.equal(packageManifest(manager, said), list);
    });
  }
});

describe('the cause of a failed step', () => {
  const cases: [string, RegExp][] = [
    ['E: Unable to locate package nosuch', /there is no package nosuch/],
    ['dpkg: error processing package foo (--configure):', /package foo could not be installed or configured/],
    ['tar: /x: Cannot write: No space left on device', /the disk is full/],
    ["E: You don't have enough free space in /var/cache/apt/archives/.", /the disk is full/],
    ["Temporary failure resolving 'archive.example'", /names do not resolve/],
    ['  Could not connect to archive.example:80', /archive cannot be reached/],
    ['  nosuch (no such package):', /there is no package nosuch/],
    ['Error: Unable to find a match: nosuch', /there is no package nosuch/],
    ['error: target not found: nosuch', /there is no package nosuch/],
    ["No provider of 'nosuch' found.", /there is no package nosuch/],
    [
      "E: The repository 'http://x.test bookworm Release' does not have a Release file.",
      /no archive .* at http:\/\/x\.test/,
    ],
    ['banger: there is no user app', /there is no user app in the image when files are put in/],
    ['tar: etc: Cannot open: File exists', /\/etc is a directory in the image: a target that ends with \//],
    ['su: user nosuch does not exist or the user entry does not', /there is no user nosuch in the image/],
  ];
  for (const [line, cause] of cases) {
    it(`is read from: ${line}`, () => assert.match(causeOf(['Reading...', line]) ?? '', cause));
  }

  it('is the full disk when that made a package fail', () => {
    const lines = ['dpkg: error processing archive x.deb', 'cannot copy: No space left on device'];
    assert.match(causeOf(lines) ?? '', /disk is full/);
  });

  it('is none where nothing is recognised', () => assert.equal(causeOf(['all is well', '']), undefined));
});

it('a distribution that calls itself as what every object has is an unknown one', () => {
  assert.equal(parseOsRelease('ID=constructor\nID_LIKE="toString __proto__"').family, 'unknown');
});
