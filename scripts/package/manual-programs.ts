/** Manual pages of the other programs: fcqemu(1), whose options are those of its help, fcqemu-vsock(1) and bangernet(8). */
import { helpText } from '../../fcqemu/argv.ts';
import type { Page } from './mdoc.ts';

export function programPages(): Page[] {
  return [fcqemuPage(), vsockPage(), helperPage()];
}

function fcqemuPage(): Page {
  return {
    name: 'fcqemu',
    section: 1,
    about: 'the Firecracker API in front of QEMU',
    sections: [
      ['SYNOPSIS', [{ synopsis: ['fcqemu', '[<options>]'] }]],
      [
        'DESCRIPTION',
        [
          {
            text:
              'Takes the place of `firecracker` where KVM does not work: the same options, the same HTTP API on a Unix socket, the same ' +
              'answers. The guest runs on the microvm machine of QEMU, under KVM where a guest really runs with it, else emulated.',
          },
          {
            text: 'The process has the name that it was started by, so a link called firecracker serves clients that look for that.',
          },
        ],
      ],
      ['OPTIONS', [{ terms: optionTerms() }]],
      [
        'ENVIRONMENT',
        [
          {
            terms: [
              {
                term: 'FCQEMU_ACCEL',
                text: '`auto`, `kvm` or `tcg`. Without it: auto, which tries the kernel of the guest under KVM.',
              },
              { term: 'FCQEMU_QEMU', text: 'QEMU to run. Without it: qemu-system-x86_64 of PATH.' },
            ],
          },
        ],
      ],
      [
        'EXAMPLES',
        [
          {
            literal: [
              'fcqemu --api-sock /tmp/vm.sock --id my-vm --log-path vm.log',
              'fcqemu --no-api --config-file vm.json',
            ],
          },
        ],
      ],
    ],
    seeAlso: ['banger 1', 'fcqemu-vsock 1'],
  };
}

function vsockPage(): Page {
  return {
    name: 'fcqemu-vsock',
    section: 1,
    about: 'AF_VSOCK for programs in guests of fcqemu',
    sections: [
      ['SYNOPSIS', [{ synopsis: ['fcqemu-vsock'] }]],
      [
        'DESCRIPTION',
        [
          {
            text:
              'A static program that is copied into a guest and runs there. It joins the vsock of the kernel with the device that ' +
              'fcqemu gives the guest, in both directions: what listens on AF_VSOCK in the guest is reached from the host, and what ' +
              'connects to context ID 2 reaches the socket of the host.',
          },
          { text: 'Where there is no such device, e.g. under Firecracker, it ends after 5 seconds with status 0.' },
        ],
      ],
      ['EXAMPLES', [{ literal: ['banger cp /usr/bin/fcqemu-vsock web:/sbin/', 'banger exec web -- fcqemu-vsock'] }]],
    ],
    seeAlso: ['fcqemu 1', 'banger 1'],
  };
}

function helperPage(): Page {
  return {
    name: 'bangernet',
    section: 8,
    about: 'network helper of banger, for users without root',
    sections: [
      ['SYNOPSIS', [{ synopsis: ['bangernet', '[--vms N]', '[--pools LIST]', '[--journal DIR]'] }]],
      [
        'DESCRIPTION',
        [
          {
            text:
              'Makes network devices, routes and packet rules for VMs of users. systemd starts it when a daemon of a member of the group ' +
              'banger connects to its socket, with the right to change the network and no other; it ends when it is not needed.',
          },
          {
            text:
              'A request names a VM, its address and what it may reach. Devices, rules and tables are named and written by the helper: ' +
              'each user has a table, and no request reaches what belongs to another user, to root, or to rules of others. Each ' +
              'request that changes something is in the journal, with user and process.',
          },
        ],
      ],
      [
        'OPTIONS',
        [
          {
            terms: [
              { term: '--vms N', text: 'VMs that a user may have at a time. Without it: 256.' },
              {
                term: '--pools LIST',
                text:
                  'Address ranges, separated by commas, that VMs of users may have addresses of. Without it: those that banger chooses ' +
                  'from by itself, within 172.27.0.0 to 172.30.255.255, 10.213.0.0/16, 10.214.0.0/16 and 10.128.0.0/10.',
              },
              {
                term: '--journal DIR',
                text: 'Where it is written down what users have. Without it: the runtime directory of the unit.',
              },
            ],
          },
        ],
      ],
      [
        'EXAMPLES',
        [
          {
            literal: [
              'sudo usermod -aG banger alice',
              'journalctl -u bangernet',
              'sudo systemctl edit bangernet     # another ExecStart, with options',
            ],
          },
        ],
      ],
    ],
    seeAlso: ['banger 1', 'banger.toml 5'],
  };
}

/** What `--help` shows: an option and, behind a gap, what it is for. */
function optionTerms(): { term: string; text: string }[] {
  return helpText()
    .split('\n')
    .flatMap((line) => {
      const [, term, text] = /^ {2}(--.*?) {3,}(.*)$/.exec(line) ?? [];
      return term !== undefined && text !== undefined ? [{ term, text }] : [];
    });
}
