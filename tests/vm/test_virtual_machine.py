"""The virtual machine is what the tests beside this one take it for."""


def test_it_has_control_groups_of_version_2_alone_and_ext4(vm):
    assert "cgroup2fs" in vm.run(["stat", "--file-system", "--format=%T", "/sys/fs/cgroup"]).stdout
    assert " / ext4 " in vm.read("/proc/mounts")
