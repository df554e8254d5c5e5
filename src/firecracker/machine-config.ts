/** The requests that configure one VM, in the order a VMM must see them. */
import { bootSource, drive, entropy, machineConfig, networkInterface, type VmmRequest, vsock } from './requests.ts';
import { can, type VmmVersion } from './versions.ts';

export interface GuestDrive {
  /** letters, digits and underscores: Firecracker refuses dashes */
  id: string;
  path: string;
  readOnly: boolean;
  /** lost in a crash anyway, so that a guest's fsync need not wait for the host's disk */
  throwaway?: boolean;
}

export interface GuestMachine {
  vcpus: number;
  memoryMib: number;
  kernel: string;
  initrd: string | undefined;
  bootArgs: string;
  /** in the order the guest sees them: the first is /dev/vda */
  drives: readonly GuestDrive[];
  tap: string;
  mac: string;
  /** bytes; the guest also reads it from its seed drive, for VMMs that cannot tell it */
  mtu: number;
  /** socket that leads to the guest's agent */
  vsock: string;
}

/** How the guest is called on its own vsock, where each has the host to itself. */
const GUEST_CID = 3;

/** @param version of the VMM at hand, which refuses a request with a field that it does not know */
export function configurationRequests(machine: GuestMachine, version: VmmVersion): VmmRequest[] {
  return [
    machineConfig({ vcpu_count: machine.vcpus, mem_size_mib: machine.memoryMib }),
    bootSource({
      kernel_image_path: machine.kernel,
      boot_args: machine.bootArgs,
      ...(machine.initrd ? { initrd_path: machine.initrd } : {}),
    }),
    ...machine.drives.map(({ id, path, readOnly, throwaway }) =>
      drive({
        drive_id: id,
        path_on_host: path,
        // the initrd mounts the root itself; a root device would add root= to the command line and reorder drives
        is_root_device: false,
        is_read_only: readOnly,
        // a guest's fsync must reach the host's disk, or a host crash loses what the guest believes is safe
        cache_type: throwaway ? 'Unsafe' : 'Writeback',
      }),
    ),
    networkInterface({
      iface_id: 'eth0',
      host_dev_name: machine.tap,
      guest_mac: machine.mac,
      ...(can(version, 'interfaceMtu') ? { mtu: machine.mtu } : {}),
    }),
    entropy(),
    vsock({ guest_cid: GUEST_CID, uds_path: machine.vsock }),
  ];
}
